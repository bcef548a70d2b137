"""Measure the error of resampling in HU: ours and MONAI's unfiltered sampling, against the exact area integral.

    python benchmarks/sampling.py [SCAN …] [--json FILE]

Each SCAN is a folder or file of CT; the default is three real scans beside the checkout. Each is resampled to the
shipped bundle's grid in three ways: by ours, by MONAI's `SpatialResample` (which `Spacing` calls; bilinear, no filter),
and by the integral of the scan, taken as constant within its voxels, over each new voxel in float64. They are compared
inside the scan, after clipping to the bundle's HU range.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SCANS = [f"../shared/ct/{name}" for name in ("cmbcrc_01068", "4dlung_p113", "derived/lidc_0314")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="*", type=Path, default=[ROOT / name for name in SCANS])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    from models.bundle.store import find_bundle, load_bundle

    preprocessing = load_bundle(find_bundle()).preprocessing
    rows = [row for scan in args.scans for row in compare(scan, preprocessing)]
    print(f"to {preprocessing.spacing_mm} mm (z, y, x); HU off the integral: mean, 99th percentile, largest")
    for row in rows:
        print(f"{row['shape']} at {row['spacing_mm']} mm")
        for name in ("ours", "monai"):
            print(f"  {name:8}{row[name]['mean']:9.4f}{row[name]['p99']:10.3f}{row[name]['largest']:10.3f}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


def compare(scan: Path, preprocessing):
    from operators.build_volume import build_volume
    from operators.errors import SeriesError
    from operators.geometry.windows import target_axes
    from operators.preprocess import preprocess
    from operators.read_study import read_studies
    from operators.series.ct_images import keep_ct_images

    low, high = preprocessing.window_hu
    for study in read_studies(scan).studies:
        for series in study.series:
            try:
                volume = build_volume(keep_ct_images(series))
            except SeriesError:
                continue
            axes = target_axes(volume, preprocessing)
            whole = replace(preprocessing, window_voxels=tuple(axis.n_target for axis in axes))
            windows = preprocess(volume, whole)
            exact, inside = integral(volume, axes)
            found = {
                "ours": windows.voxels[0, 0] * (high - low) + low,
                "monai": monai(volume, windows.affines_lps_mm[0], exact.shape),
            }
            row = {"shape": volume.shape, "spacing_mm": [round(mm, 3) for mm in volume.spacing_mm]}
            for name, hu in found.items():
                off = np.abs(np.clip(hu, low, high) - np.clip(exact, low, high))[inside]
                row[name] = {"mean": off.mean(), "p99": np.percentile(off, 99), "largest": off.max()}
            yield row


def integral(volume, axes):
    """HU (z, y, x) on the new grid, float64, and which of its voxels are wholly inside of the scan."""
    hu = volume.voxels().transpose([axis.volume_axis for axis in axes]).astype(np.float64)
    inside = np.ones((), bool)
    for place, axis in enumerate(axes):
        edges = axis.first + axis.step * (np.arange(axis.n_target + 1) - 0.5) + 0.5
        old = np.arange(axis.n_source)
        part = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
        weight = np.maximum(part, 0)
        covered = weight.sum(axis=1)
        weight /= np.maximum(covered, 1e-12)[:, None]
        if axis.flipped:
            weight = weight[:, ::-1]
        hu = np.moveaxis(np.tensordot(weight, hu, (1, place)), 0, place)
        inside = inside[..., None] & (covered > axis.step - 1e-9)
    return hu, inside


def monai(volume, affine_lps_mm, shape):
    """What MONAI's bilinear sampling gives at the centres of the same voxels."""
    import torch
    from monai.data import MetaTensor
    from monai.transforms import SpatialResample

    ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    image = MetaTensor(torch.from_numpy(volume.voxels()[None]).float(), affine=ras @ volume.affine_lps_mm)
    resample = SpatialResample(mode="bilinear", padding_mode="border", dtype=np.float64)
    return resample(image, dst_affine=ras @ affine_lps_mm, spatial_size=shape)[0].numpy()


if __name__ == "__main__":
    main()
