"""Measure time and memory of preprocessing: ours and MONAI's five transforms, from one array to the same windows.

    python benchmarks/preprocessing.py [--runs N] [--shape D H W] [--window d h w] [--json FILE]

Each contender is a separate process that holds the int16 array before measuring starts. Runs are interleaved; times are
medians of warm runs; memory is the peak of the first run, above that of the process with its input.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from race import race

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
WINDOW_HU = (-1000.0, 1000.0)
CONTENDERS = {"ours": "ours", "monai": "MONAI, as it comes (float64)", "monai32": "MONAI, Spacing in float32"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 512, 512))
    parser.add_argument("--window", type=int, nargs=3, default=(32, 256, 256))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--volume", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        contend(args.contender, np.load(args.volume), tuple(args.window))
        return
    with tempfile.TemporaryDirectory() as folder:
        volume = Path(folder) / "volume.npy"
        np.save(volume, phantom(tuple(args.shape)))
        own = [sys.executable, __file__, "--volume", volume, "--window", *args.window, "--contender"]
        measured = race({name: [*own, name] for name in CONTENDERS}, args.runs + 1, quiet=False)
    report(measured, args)


def phantom(shape):
    from models.phantom import PhantomFactors, phantom_slices

    hu = np.empty(shape, np.int16)
    for d, plane in enumerate(phantom_slices(PhantomFactors(), shape, spacing_for(shape))):
        hu[d] = plane
    return hu


def spacing_for(shape):
    """300 mm × 360 mm × 360 mm, whatever the grid."""
    return (300 / shape[0], 360 / shape[1], 360 / shape[2])


def contend(name, hu, window):
    """One contender: a run for each line that is read, a JSON line for each run."""
    run = {"ours": ours, "monai": monai, "monai32": monai32}[name]
    small = hu[: window[0], ::8, ::8].copy()
    run(small, (max(window[0] // 4, 1), 8, 8))  # imports, thread pools
    for _ in sys.stdin:
        before = reset_peak()
        start, cpu = time.perf_counter(), time.process_time()
        result = run(hu, window)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        assert result.shape[-3:] == window, result.shape
        line = {"seconds": seconds, "cpu": cpu, "peak_mib": peak_mib() - before, "mean": float(result.mean())}
        del result
        print(json.dumps(line), flush=True)


def reset_peak():
    """Resident MiB now, from where the peak counts."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mib()


def peak_mib():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def target_spacing(shape, window):
    return tuple(n * mm / w for n, mm, w in zip(shape, spacing_for(shape), window, strict=True))


def ours(hu, window):
    from pydicom.dataset import Dataset

    from models.spec import Preprocessing
    from operators.instance import Instance
    from operators.preprocess import preprocess
    from operators.synthetic.write_ct import affine_for
    from operators.types import HuSlice, Series, Volume

    series = Series("1.2", "1.2", ".", (Instance(Path(), Dataset()),))
    spacing_mm = spacing_for(hu.shape)
    volume = Volume(series, hu.shape, affine_for(hu.shape, spacing_mm), spacing_mm, (), lambda d: HuSlice(hu[d]))
    return preprocess(volume, Preprocessing("window", window, target_spacing(hu.shape, window), WINDOW_HU)).voxels


def monai(hu, window, dtype=np.float64):
    import torch
    from monai.data import MetaTensor
    from monai.transforms import (
        Compose,
        EnsureChannelFirst,
        Orientation,
        ResizeWithPadOrCrop,
        ScaleIntensityRange,
        Spacing,
    )

    from operators.synthetic.write_ct import affine_for

    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_for(hu.shape, spacing_for(hu.shape))
    transforms = Compose(
        [
            EnsureChannelFirst(channel_dim="no_channel"),
            Orientation(axcodes="SPL", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacing(target_spacing(hu.shape, window), mode="bilinear", dtype=dtype),
            ResizeWithPadOrCrop(window),
            ScaleIntensityRange(*WINDOW_HU, 0.0, 1.0, clip=True),
        ]
    )
    return transforms(MetaTensor(torch.from_numpy(hu), affine=affine)).numpy()


def monai32(hu, window):
    return monai(hu, window, np.float32)


def report(measured, args) -> None:
    rows = {
        name: {
            "seconds": statistics.median(run["seconds"] for run in runs[1:]),
            "cpu_seconds": statistics.median(run["cpu"] for run in runs[1:]),
            "peak_mib": runs[0]["peak_mib"],
            "mean": runs[0]["mean"],
        }
        for name, runs in measured.items()
    }
    columns = {"seconds": 3, "cpu_seconds": 3, "peak_mib": 0}
    for row in rows.values():
        row["ratios"] = {key: rows["ours"][key] / row[key] for key in columns}
    volume_mib = math.prod(args.shape) * 2 / 2**20
    print(
        f"{args.shape} int16 ({volume_mib:.0f} MiB) → {args.window} float32; {os.cpu_count()} cores; {args.runs} runs"
    )
    print(f"{'':30}" + "".join(f"{key:>12}{'ours ÷':>8}" for key in columns) + f"{'mean':>8}")
    for name, row in rows.items():
        cells = "".join(f"{row[key]:12.{digits}f}{row['ratios'][key]:8.3f}" for key, digits in columns.items())
        print(f"{CONTENDERS[name]:30}{cells}{row['mean']:8.4f}")
    if args.json:
        result = {
            "shape": args.shape,
            "window": args.window,
            "runs": args.runs,
            "cores": os.cpu_count(),
            "results": rows,
        }
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
