"""Changes of a scan that should not matter to its features: what repeatability and identity are measured under.

Each makes a `Volume` of a `Volume`, lazily: slices are decoded and changed on demand, as preprocessing asks for them.
Equal seeds give equal voxels, in whatever order, or from whatever thread, the slices are asked for.

The windows of a changed volume come from the ordinary `preprocess`, and window k of it is about the same place in the
patient as window k of the original. Preprocessing lays windows by the extent of a scan, so:

- noise, kernels and the codec leave the grid alone;
- a turn, an offset and a removed table leave it alone too (`operators.synthetic.setup_changes`);
- thicker slabs divide the same extent into fewer slices, the last one as thick as the first;
- the smaller field of view keeps the centre in plane, and all slices: its windows have the same place, and air where
  the new field of view ends within them (with fit `resize` they show less, magnified: what such a network sees);
- a shift moves the extent against the patient, with no interpolation, which would take noise away: whole voxels leave
  at one end and the outermost ones are repeated at the other. What is less than a voxel of the scan is made exact by
  cutting each voxel into equal ones of the same HU, which a mean over areas does not see. Where preprocessing
  interpolates instead (voxels no smaller than the bundle's) only whole voxels are moved, perhaps none. The affine goes
  with the voxels: each keeps its place in the patient. It never moves by more than was asked for; the finding says by
  how much.

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
"""Standard deviation added: a scan with 12 HU of noise at half of its dose, and at a tenth (noise goes as 1/√dose)."""

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

_CLOSE_ENOUGH = 0.8  # of a shift: cut voxels until at least this much of it is whole ones
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
    """Every change by its name; the shifts are in voxels of this bundle's grid."""

    def by_voxels(voxels: float) -> Change:
        def change(volume: Volume, rng: np.random.Generator) -> Volume:
            axes = target_axes(volume, settings)
            asked = np.zeros(3)
            for axis in axes:
                asked[axis.volume_axis] = voxels * axis.step
            return shift(volume, asked * rng.choice((-1.0, 1.0), 3), [axis.step for axis in _by_volume_axis(axes)])

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
"""Those for a grid of 4 mm; for the grid of a bundle, `changes_for(bundle.preprocessing)`."""


def add_noise(volume: Volume, rng: np.random.Generator, deviation_hu: float) -> Volume:
    """Gaussian noise of this standard deviation in each voxel, with the grain of a soft kernel.

    White noise through a Gaussian of `NOISE_GRAIN_MM` in plane; none of it is correlated between slices. Unlike that of
    filtered back-projection its spectrum does not vanish at low frequencies, so more of it survives in large voxels:
    the harder case. Nothing gets below -1024 HU that was not there already, as in a scanner's unsigned pixels.
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
    """Unsharp masking in plane: `amount` of what a Gaussian of `kernel_mm` takes away is added."""
    sigma = [kernel_mm / mm for mm in volume.spacing_mm[1:]]

    def change(d: int, hu: Plane) -> Plane:
        sharp = hu.astype(np.float32)
        return rounded(sharp + np.float32(amount) * (sharp - ndimage.gaussian_filter(sharp, sigma, mode="nearest")))

    return of_each_slice(volume, change, f"sharpened by {amount:g} at {kernel_mm:g} mm")


def smooth(volume: Volume, kernel_mm: float) -> Volume:
    """A Gaussian of this standard deviation in plane."""
    sigma = [kernel_mm / mm for mm in volume.spacing_mm[1:]]

    def change(d: int, hu: Plane) -> Plane:
        return rounded(ndimage.gaussian_filter(hu.astype(np.float32), sigma, mode="nearest"))

    return of_each_slice(volume, change, f"smoothed by {kernel_mm:g} mm")


def compress_lossily(volume: Volume, quality: int) -> Volume:
    """Through JPEG of 12 bits (Extended, process 4) and back; HU beyond `JPEG_HU` are clipped."""
    import imagecodecs

    low, high = JPEG_HU

    def change(d: int, hu: Plane) -> Plane:
        stored = (np.clip(hu, low, high) - low).astype(np.uint16)
        coded = imagecodecs.jpeg8_encode(stored, level=quality, bitspersample=12)
        return (imagecodecs.jpeg8_decode(coded).astype(np.int32) + low).astype(np.int16)

    return of_each_slice(volume, change, f"JPEG of 12 bits at quality {quality}")


def thicken(volume: Volume, slab_mm: float) -> Volume:
    """The same extent in fewer slices: slabs of about `slab_mm`, and of at least two slices where there are two.

    A slab's edge may go through a slice; each is then weighed by the part that is inside.
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
    """The middle `part` of rows and columns, to whole voxels; slices and the size of pixels stay."""
    margin = [round((1 - part) / 2 * count) for count in volume.shape[1:]]
    rows, columns = (slice(cut, count - cut) for cut, count in zip(margin, volume.shape[1:], strict=True))

    def read(d: int) -> HuSlice:
        whole = volume.read_slice(d)
        return replace(whole, hu=np.ascontiguousarray(whole.hu[rows, columns]))

    shape = (volume.shape[0], volume.shape[1] - 2 * margin[0], volume.shape[2] - 2 * margin[1])
    return _regridded(volume, shape, (0, *margin), (1, 1, 1), read, f"field of view cut to {part:.0%}")


def shift(volume: Volume, by: NDArray[np.float64], steps: list[float]) -> Volume:
    """Move the scan's extent against the patient, at most by as much as was asked for; see the module.

    Args:
        volume: stays where it is in the patient.
        by: (3,), for each axis of the volume, in its voxels: how far the extent moves along it.
        steps: the bundle's voxel in voxels of the volume, for each of its axes: what is above 1 is averaged over.
    """
    cuts, moves, sources = [], [], []
    for count, asked, step in zip(volume.shape, by.tolist(), steps, strict=True):
        cut = _cuts(abs(asked)) if step > 1 else 1
        move = int(math.copysign(math.floor(abs(asked) * cut + 1e-9), asked))
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


def _cuts(asked: float) -> int:
    """Into how many parts a voxel is cut so that whole parts make up most of the shift."""
    enough = (cut for cut in range(1, _FINEST + 1) if math.floor(asked * cut + 1e-9) >= _CLOSE_ENOUGH * asked * cut)
    return next(enough, _FINEST)


def _by_volume_axis(axes: tuple[Any, ...]) -> list[Any]:
    return sorted(axes, key=lambda axis: int(axis.volume_axis))


def _kept(volume: Volume, count: int) -> Callable[[int], HuSlice]:
    """Reading that keeps the last few slices, where a new slice needs several or several need the same."""
    return lru_cache(maxsize=count)(volume.read_slice)


def _regridded(
    volume: Volume, shape: tuple[int, int, int], first: Any, step: Any, read: Callable[[int], HuSlice], text: str
) -> Volume:
    """On another grid: index i along an axis of the new one is first + i · step of the old one."""
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
    """Sum of squares of a Gaussian's taps: what it leaves of the variance of white noise, along one axis."""
    impulse = np.zeros(2 * math.ceil(4 * deviation + 1) + 1)
    impulse[impulse.size // 2] = 1
    return float(np.sum(ndimage.gaussian_filter1d(impulse, deviation, mode="wrap") ** 2))
