"""Compare ONNX Runtime with OpenVINO: the encoder alone, and the processor time of a whole warm study with either.

    python -m pip install openvino==2026.4.1
    python benchmarks/openvino_runtime.py FOLDER [FOLDER ...] [--runs N]

Each FOLDER holds DICOM of one study. Both runtimes work in one process, in turn, with two threads and in float32; the
decoder, which reliability needs, runs on the same one. Medians of the processor time of all threads.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from app.open_pipeline import open_pipeline  # noqa: E402
from app.read_input import open_series  # noqa: E402
from app.settings import DEFAULTS  # noqa: E402
from models import runtime  # noqa: E402
from models.bundle.store import find_bundle, load_bundle  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    bundle = load_bundle(find_bundle())
    one, two = (compiled(bundle.onnx_path, threads) for threads in (1, 2))
    decoder = compiled(bundle.decoder_path, 2)
    window = np.random.default_rng(0).random((1, 1, *bundle.preprocessing.window_voxels), np.float32)
    mu = [np.array(request.infer({"image": window})["mu"]) for request in (one, two)]
    theirs = runtime.OnnxEncoder(bundle).run(window, ["mu"])["mu"]
    print(f"mu of OpenVINO and ONNX Runtime differ by {np.abs(mu[1] - theirs).max():.1e} at most")
    print(f"with one thread and with two its bytes are {'the same' if (mu[0] == mu[1]).all() else 'DIFFERENT'}")
    for folder in args.folders:
        compare(folder, two, decoder, args.runs)


def compiled(path: Path, threads: int) -> Any:
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    return core.compile_model(core.read_model(str(path)), "CPU", settings).create_infer_request()


def compare(folder: Path, encoder: Any, decoder: Any, runs: int) -> None:
    spent: dict[str, list[tuple[float, float]]] = {"ONNX Runtime": [], "OpenVINO": []}
    own = runtime.OnnxEncoder.run, runtime.Decoder.run
    clock = Clock()
    both = {
        "ONNX Runtime": (clock.of(own[0]), clock.of_each(own[1])),
        "OpenVINO": (clock.of(encoding(encoder)), clock.of_each(decoding(decoder))),
    }
    with tempfile.TemporaryDirectory() as output:
        pipeline = open_pipeline(DEFAULTS, None, Path(output))
        for _ in range(runs + 1):
            for name, (runtime.OnnxEncoder.run, runtime.Decoder.run) in both.items():
                clock.seconds, start = 0.0, time.process_time()
                with open_series(folder, DEFAULTS, lambda inventory: None) as jobs:
                    for job in jobs:
                        pipeline.run(job).ended("written")
                spent[name].append((time.process_time() - start, clock.seconds))
    runtime.OnnxEncoder.run, runtime.Decoder.run = own
    middle = {
        name: [1e3 * statistics.median(row[1:]) for row in zip(*rows, strict=True)] for name, rows in spent.items()
    }
    for name, (whole, inside) in middle.items():
        print(f"{folder.name:20} {name:14} {whole:7.0f} ms, of which encoder and decoder {inside:5.0f} ms")
    print(f"{folder.name:20} whole study: {middle['OpenVINO'][0] / middle['ONNX Runtime'][0]:.2f}")


class Clock:
    """Processor time within the encoder and the decoder."""

    seconds = 0.0

    def of(self, run):
        def timed(*args):
            start = time.process_time()
            result = run(*args)
            self.seconds += time.process_time() - start
            return result

        return timed

    def of_each(self, run):
        def timed(*args):
            windows = iter(run(*args))
            while (window := self.of(next)(windows, None)) is not None:
                yield window

        return timed


def encoding(request: Any):
    def run(_self, windows, taps):
        rows = []
        for window in windows:
            found = request.infer({"image": window[None]})
            rows.append([np.array(found[tap]) for tap in taps])
        return {tap: np.concatenate(values) for tap, values in zip(taps, zip(*rows, strict=True), strict=True)}

    return run


def decoding(request: Any):
    def run(_self, mu):
        for row in mu:
            yield np.clip(np.array(request.infer({"z": row[None]})[0])[0, 0], 0, 1)

    return run


if __name__ == "__main__":
    main()
