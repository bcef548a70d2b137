"""Whom does a bundle flag: the test patients of the shipped list, and scans that are no patient's.

    python benchmarks/reliability.py [BUNDLE] [--root ../shared/ct] [--json FILE]

One line per scan: verdict, conformal p, Mahalanobis distance, reconstruction error in HU and divided by that of plain
block means, outlier score and orientation score ("turned") where the bundle gives them, and the seconds that encoder
and reliability took. Test patients whom the bundle has learned from are left out. Strange scans are a test object, a
head, and changed copies of a whole-body scan and of a scan that is cropped around a tumour.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from app.research.data.find_scans import find_scans  # noqa: E402
from models.bundle.reference import Reference, open_reference  # noqa: E402
from models.bundle.store import find_bundle, load_bundle  # noqa: E402
from models.runtime import Encoder, OnnxEncoder  # noqa: E402
from models.spec import Bundle  # noqa: E402
from operators.encode import encode  # noqa: E402
from operators.measure.reliability import measure_reliability  # noqa: E402
from operators.preprocess import preprocess  # noqa: E402
from operators.record import Reliability  # noqa: E402
from operators.types import HuSlice, Volume  # noqa: E402

LISTED = ROOT / "app" / "research" / "shipped" / "ct_vae.csv"
OBJECTS = {"test object": "dcmqact_philips_tilt_phantom", "head": "invesalius_cranium"}
CHANGED = {"whole body": "derived/acrin_flt_013", "cropped": "sts/STS_041/CT"}
Slice = NDArray[np.int16]


@dataclass(frozen=True)
class Model:
    """A bundle, open."""

    bundle: Bundle
    encoder: Encoder
    reference: Reference

    def measure(self, volume: Volume) -> tuple[Reliability, float, float]:
        """Return the reliability, and the seconds of the encoder and of it."""
        windows, started = preprocess(volume, self.bundle.preprocessing), time.perf_counter()
        encoding, encoded = encode(windows, self.encoder, self.bundle), time.perf_counter()
        found = measure_reliability(encoding, self.reference, self.bundle.preprocessing)
        return found, encoded - started, time.perf_counter() - encoded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--root", type=Path, default=ROOT.parent / "shared" / "ct")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model, rows = open_model(args.bundle), []
    columns = f"{'distance':>10}{'error HU':>10}{'ratio':>9}{'outlier':>9}{'turned':>9}{'encoder':>10}{'this, s':>8}"
    print(f"{'scan':34}{'verdict':22}{'p':>6}{columns}")
    for name, volume in (*unseen_patients(model.bundle, args.root), *strange_scans(args.root)):
        found, encoder_s, reliability_s = model.measure(volume)
        scores = found.outlier_score, found.orientation_score
        values = found.p_conformal, found.reconstruction_mae_hu, found.reconstruction_ratio, *scores
        p, error, ratio, outlier, turned = (float("nan") if value is None else value for value in values)
        said = f"{name:34}{found.verdict:22}{p:6.3f}{found.mahalanobis:10.2f}{error:10.1f}{ratio:9.2f}"
        print(f"{said}{outlier:9.2f}{turned:9.2f}{encoder_s:10.3f}{reliability_s:8.3f}", flush=True)
        told = {key: value for key, value in asdict(found).items() if key != "percentiles"}
        rows.append({"scan": name, "encoder_s": encoder_s, "reliability_s": reliability_s} | told)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def open_model(path: Path | None) -> Model:
    """Open a bundle that has reference patients; by default the shipped one."""
    bundle = load_bundle(find_bundle(path))
    reference = open_reference(bundle)
    if reference is None:
        raise SystemExit("the bundle has no reference patients; `ctvae bundle reference` writes them into it")
    return Model(bundle, OnnxEncoder(bundle), reference)


def unseen_patients(bundle: Bundle, root: Path) -> Iterator[tuple[str, Volume]]:
    """Yield the first scan of each test patient of the shipped list that the bundle has not learned from."""
    learned = bundle.training.learned_names
    met = set()
    for scan in find_scans(LISTED, root):
        if scan.split == "test" and not {scan.patient, scan.key} & learned and scan.patient not in met:
            met.add(scan.patient)
            yield f"patient {scan.patient}", scan.open()


def strange_scans(root: Path) -> Iterator[tuple[str, Volume]]:
    """Yield scans that nobody would take for a patient's body, and some of which the code cannot know better."""
    for name, place in OBJECTS.items():
        yield name, find_scans(root / place)[0].open()
    for name, place in CHANGED.items():
        volume = find_scans(root / place)[0].open()
        yield from ((f"{name}, {change}", changed) for change, changed in changes(volume))


def changes(volume: Volume) -> Iterator[tuple[str, Volume]]:
    """Yield a scan in other states, each decoded on demand."""
    last, read = volume.shape[0] - 1, volume.read_slice
    made: dict[str, Callable[[int], Slice]] = {
        "20 HU up": lambda d: read(d).hu + np.int16(20),
        "1000 HU up": lambda d: read(d).hu + np.int16(1000),
        "1000 HU down": lambda d: read(d).hu - np.int16(1000),
        "prone": lambda d: read(d).hu[::-1].copy(),
        "upside down": lambda d: read(last - d).hu,
        "upside down and prone": lambda d: read(last - d).hu[::-1].copy(),
        "air alone": lambda d: np.full(volume.shape[1:], -1000, np.int16),
        "water alone": lambda d: np.zeros(volume.shape[1:], np.int16),
    }
    for change, slice_of in made.items():
        yield change, replace(volume, read_slice=lambda d, slice_of=slice_of: HuSlice(slice_of(d)), decode_threads=1)


if __name__ == "__main__":
    main()
