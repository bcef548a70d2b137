"""Changes of a scan that should not matter to its features, for measuring repeatability and identity.

Each turns a `Volume` into a `Volume`, lazily: slices are decoded and changed when preprocessing reads them. Equal seeds
give equal voxels, in whatever order and from whatever thread the slices are read.

The windows of a changed volume come from the ordinary `preprocess`, and its window k covers about the same place in the
patient as window k of the original. Preprocessing lays windows by the extent of a scan, so:

- noise, kernels and the codec do not change the grid;
- a turn, an offset and a removed table do not change it either (`operators.synthetic.setup_changes`);
- thicker slabs divide the same extent into fewer slices, all equally thick;
- the smaller field of view keeps the centre in plane, and all slices: its windows have the same place, with air where
  the new field of view ends within them (with fit `resize` they show less, magnified, as such a network sees it);
- a shift moves the extent against the patient, without interpolation, which would remove noise: whole voxels leave at
  one end and the outermost ones are repeated at the other. Shifts of less than a voxel of the scan are made exact by
  cutting each voxel into equal ones of the same HU, which does not affect a mean over areas. Where preprocessing
  interpolates instead (voxels no smaller than the bundle's), only whole voxels are moved, perhaps none. The affine
  moves with the
  voxels: each keeps its place in the patient. The shift never exceeds the requested one; the finding states its size.

Lengths are converted to voxels by the volume's own spacing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.spec import Preprocessing
from operators.geometry.windows import axis_weights, target_axes
from operators.synthetic.changed_volume import Plane, of_each_slice, rounded
from operators.synthetic.setup_changes import offset_hu, remove_table, rotate
from operators.types import Finding, HuSlice, Volume

Change = Callable[[Volume, np.random.Generator], Volume]

LOW_NOISE_HU, HIGH_NOISE_HU = 12.0, 36.0
"""Added standard deviation: a scan with noise of 12 HU at half its dose, and at a tenth (noise goes as 1/√dose)."""

NOISE_GRAIN_MM = 0.6
KERNEL_MM = 1.0
SHARPENING = 0.8
SLAB_MM = 6.0
SUBVOXEL, VOXELS = 0.5, 2.0
FIELD_OF_VIEW = 0.85
JPEG_QUALITY = 60
TURN_DEGREES = 3.0
OFFSET_HU = 15.0
JPEG_HU = (-1024, 3071)

_CLOSE_ENOUGH = 0.8  # fraction of a shift: cut voxels until at least this much is whole voxels
_FINEST = 8

DESCRIPTIONS: Mapping[str, str] = {
    "noise_low": f"noise of {LOW_NOISE_HU:g} HU added: a scan that has as much of its own, at half its dose",
    "noise_high": f"noise of {HIGH_NOISE_HU:g} HU added: the same scan at a tenth of its dose",
    "sharper": f"sharper kernel: {SHARPENING:g} of the detail below {KERNEL_MM:g} mm added once more, in plane",
    "smoother": f"smoother kernel: Gaussian of {KERNEL_MM:g} mm in plane",
    "thicker": f"slices averaged to slabs of about {SLAB_MM:g} mm, at least two to a slab",
    "thicker_twice": "slices averaged in pairs: doubled thickness and spacing",
    "shift_subvoxel": f"moved along all three axes by {SUBVOXEL:g} of the bundle's voxel",
    "shift_voxels": f"moved along all three axes by {VOXELS:g} of the bundle's voxels",
    "field_of_view": f"in plane only the middle {FIELD_OF_VIEW:.0%} of rows and columns, air outside",
    "rotated": f"turned in plane by {TURN_DEGREES:g}°, one way or the other",
    "offset": f"{OFFSET_HU:+g} HU wherever there is no air: another calibration",
    "no_table": "air put wherever the body is not: another table, or none",
    "lossy": f"JPEG of 12 bits at quality {JPEG_QUALITY}, over {JPEG_HU[0]} to {JPEG_HU[1]} HU",
}


def changes_for(settings: Preprocessing) -> Mapping[str, Change]:
    """Return every change by its name; shifts are in voxels of this bundle's grid."""

    def by_voxels(voxels: float) -> Change:
        def change(volume: Volume, rng: np.random.Generator) -> Volume:
            axes = target_axes(volume, settings)
            requested = np.zeros(3)
            for axis in axes:
                requested[axis.volume_axis] = voxels * axis.step
            return shift(volume, requested * rng.choice((-1.0, 1.0), 3), [axis.step for axis in _by_volume_axis(axes)])

        return change

    return {
        "noise_low": lambda volume, rng: add_noise(volume, rng, LOW_NOISE_HU),
        "noise_high": lambda volume, rng: add_noise(volume, rng, HIGH_NOISE_HU),
        "sharper": lambda volume, rng: sharpen(volume, SHARPENING, KERNEL_MM),
        "smoother": lambda volume, rng: smooth(volume, KERNEL_MM),
        "thicker": lambda volume, rng: thicken(volume, SLAB_MM),
        "thicker_twice": lambda volume, rng: thicken(volume, 2 * volume.spacing_mm[0]),
        "shift_subvoxel": by_voxels(SUBVOXEL),
        "shift_voxels": by_voxels(VOXELS),
        "field_of_view": lambda volume, rng: crop_field_of_view(volume, FIELD_OF_VIEW),
        "rotated": lambda volume, rng: rotate(volume, TURN_DEGREES * float(rng.choice((-1.0, 1.0)))),
        "offset": lambda volume, rng: offset_hu(volume, OFFSET_HU),
        "no_table": lambda volume, rng: remove_table(volume),
        "lossy": lambda volume, rng: compress_lossily(volume, JPEG_QUALITY),
    }


CHANGES: Mapping[str, Change] = changes_for(Preprocessing("window", (32, 96, 96), (4.0, 4.0, 4.0), (-1000.0, 1000.0)))
"""The changes for a grid of 4 mm; for a bundle's grid use `changes_for(bundle.preprocessing)`."""


def add_noise(volume: Volume, rng: np.random.Generator, deviation_hu: float) -> Volume:
    """Return the volume with Gaussian noise of this standard deviation per voxel, with the grain of a soft kernel.

    White noise passes through a Gaussian of `NOISE_GRAIN_MM` in plane; slices are uncorrelated. Unlike the noise of
    filtered back-projection, its spectrum does not vanish at low frequencies, so more of it survives in large voxels:
    the harder case. No voxel that was not there already falls below -1024 HU, as in a scanner's unsigned pixels.
    """
    seed = int(rng.integers(2**63))
    sigma = [NOISE_GRAIN_MM / mm for mm in volume.spacing_mm[1:]]
    gain = deviation_hu / math.sqrt(math.prod(_energy(deviation) for deviation in sigma))

    def change(d: int, hu: Plane) -> Plane:
        white = np.random.default_rng((seed, d)).standard_normal(hu.shape, np.float32)
        noise = ndimage.gaussian_filter(white, sigma, mode="wrap")
        return rounded(np.maximum(hu + np.float32(gain) * noise, np.minimum(hu, -1024)))

    return of_each_slice(volume, change, f"noise of {deviation_hu:g} HU")


def sharpen(volume: Volume, amount: float, kernel_mm: float) -> Volume:
    """Return the volume after unsharp masking in plane: plus `amount` of what a Gaussian of `kernel_mm` removes."""
    sigma = [kernel_mm / mm for mm in volume.spacing_mm[1:]]

    def change(d: int, hu: Plane) -> Plane:
        sharp = hu.astype(np.float32)
        return rounded(sharp + np.float32(amount) * (sharp - ndimage.gaussian_filter(sharp, sigma, mode="nearest")))

    return of_each_slice(volume, change, f"sharpened by {amount:g} at {kernel_mm:g} mm")


def smooth(volume: Volume, kernel_mm: float) -> Volume:
    """Return the volume after a Gaussian of this standard deviation in plane."""
    sigma = [kernel_mm / mm for mm in volume.spacing_mm[1:]]

    def change(d: int, hu: Plane) -> Plane:
        return rounded(ndimage.gaussian_filter(hu.astype(np.float32), sigma, mode="nearest"))

    return of_each_slice(volume, change, f"smoothed by {kernel_mm:g} mm")


def compress_lossily(volume: Volume, quality: int) -> Volume:
    """Return the volume after JPEG of 12 bits (Extended, process 4); HU beyond `JPEG_HU` are clipped."""
    import imagecodecs

    low, high = JPEG_HU

    def change(d: int, hu: Plane) -> Plane:
        stored = (np.clip(hu, low, high) - low).astype(np.uint16)
        coded = imagecodecs.jpeg8_encode(stored, level=quality, bitspersample=12)
        return (imagecodecs.jpeg8_decode(coded).astype(np.int32) + low).astype(np.int16)

    return of_each_slice(volume, change, f"JPEG of 12 bits at quality {quality}")


def thicken(volume: Volume, slab_mm: float) -> Volume:
    """Return the same extent in fewer slices: slabs of about `slab_mm`, each of at least two slices if there are two.

    A slab's edge may cut through a slice; the slice is then weighted by the part inside.
    """
    depth = volume.shape[0]
    fewer = max(1, round(depth / max(2.0, slab_mm / volume.spacing_mm[0])))
    step = depth / fewer
    weights = axis_weights(depth, fewer, (step - 1) / 2, step)
    read = _kept(volume, math.ceil(step) + 1)

    def read_slab(d: int) -> HuSlice:
        given = [
            (read(int(source)), weight)
            for source, weight in zip(weights.source[d], weights.weight[d], strict=True)
            if weight > 0
        ]
        mean = np.sum([slice_.hu * weight for slice_, weight in given], axis=0)
        return HuSlice(rounded(mean), tuple(dict.fromkeys(found for slice_, _ in given for found in slice_.findings)))

    slab = f"slabs of {step * volume.spacing_mm[0]:.2f} mm"
    return _regridded(volume, (fewer, *volume.shape[1:]), ((step - 1) / 2, 0, 0), (step, 1, 1), read_slab, slab)


def crop_field_of_view(volume: Volume, part: float) -> Volume:
    """Return the middle `part` of rows and columns, in whole voxels; slices and pixel size stay."""
    margin = [round((1 - part) / 2 * count) for count in volume.shape[1:]]
    rows, columns = (slice(cut, count - cut) for cut, count in zip(margin, volume.shape[1:], strict=True))

    def read(d: int) -> HuSlice:
        whole = volume.read_slice(d)
        return replace(whole, hu=np.ascontiguousarray(whole.hu[rows, columns]))

    shape = (volume.shape[0], volume.shape[1] - 2 * margin[0], volume.shape[2] - 2 * margin[1])
    return _regridded(volume, shape, (0, *margin), (1, 1, 1), read, f"field of view cut to {part:.0%}")


def shift(volume: Volume, by: NDArray[np.float64], steps: list[float]) -> Volume:
    """Move the scan's extent against the patient, at most as far as requested; see the module.

    Args:
        volume: its place in the patient does not change.
        by: (3,), shift of the extent along each axis of the volume, in its voxels.
        steps: the bundle's voxel in voxels of the volume, for each of its axes; above 1, voxels are averaged.
    """
    cuts, moves, sources = [], [], []
    for count, requested, step in zip(volume.shape, by.tolist(), steps, strict=True):
        cut = _cuts(abs(requested)) if step > 1 else 1
        move = int(math.copysign(math.floor(abs(requested) * cut + 1e-9), requested))
        cuts.append(cut)
        moves.append(move)
        sources.append(np.clip(np.arange(count * cut) + move, 0, count * cut - 1) // cut)
    read = _kept(volume, 2)

    def read_moved(d: int) -> HuSlice:
        whole = read(int(sources[0][d]))
        return replace(whole, hu=whole.hu.take(sources[1], axis=0).take(sources[2], axis=1))

    shape = (sources[0].size, sources[1].size, sources[2].size)
    first = [(move + 0.5) / cut - 0.5 for move, cut in zip(moves, cuts, strict=True)]
    moved_mm = [mm * move / cut for mm, move, cut in zip(volume.spacing_mm, moves, cuts, strict=True)]
    text = f"moved by {', '.join(f'{mm:+.2f}' for mm in moved_mm)} mm along slices, rows and columns"
    return _regridded(volume, shape, first, [1 / cut for cut in cuts], read_moved, text)


def _cuts(requested: float) -> int:
    """Return the number of parts to cut a voxel into so that whole parts make up most of the shift."""
    enough = (
        cut for cut in range(1, _FINEST + 1) if math.floor(requested * cut + 1e-9) >= _CLOSE_ENOUGH * requested * cut
    )
    return next(enough, _FINEST)


def _by_volume_axis(axes: tuple[Any, ...]) -> list[Any]:
    return sorted(axes, key=lambda axis: int(axis.volume_axis))


def _kept(volume: Volume, count: int) -> Callable[[int], HuSlice]:
    """Return a reader that keeps the last few slices, for new slices that need several or share one."""
    return lru_cache(maxsize=count)(volume.read_slice)


def _regridded(
    volume: Volume, shape: tuple[int, int, int], first: Any, step: Any, read: Callable[[int], HuSlice], text: str
) -> Volume:
    """Return the volume on another grid: index i along an axis of the new one is first + i · step of the old one."""
    affine = volume.affine_lps_mm.copy()
    affine[:3, 3] += affine[:3, :3] @ np.asarray(first, float)
    affine[:3, :3] *= np.asarray(step, float)
    z, y, x = (mm * factor for mm, factor in zip(volume.spacing_mm, step, strict=True))
    return replace(
        volume,
        shape=shape,
        affine_lps_mm=affine,
        spacing_mm=(float(z), float(y), float(x)),
        read_slice=read,
        findings=(*volume.findings, Finding("CHANGED", text)),
    )


def _energy(deviation: float) -> float:
    """Return the sum of squares of a Gaussian's taps: the variance that it leaves of white noise, along one axis."""
    impulse = np.zeros(2 * math.ceil(4 * deviation + 1) + 1)
    impulse[impulse.size // 2] = 1
    return float(np.sum(ndimage.gaussian_filter1d(impulse, deviation, mode="wrap") ** 2))
