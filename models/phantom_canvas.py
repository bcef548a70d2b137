"""A slice of a phantom while it is painted: ellipsoids with partial volume in plane, and a kernel that smooths it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Zyx = tuple[float, float, float]
Place = tuple[slice, slice]


class Canvas(NamedTuple):
    """One slice being painted at height z: HU at (y, x), in mm about the centre."""

    z: float
    y: Floats
    x: Floats
    hu: Floats

    @property
    def pixel_mm(self) -> float:
        """The distance of two pixels; the larger of the two directions."""
        steps = [float(axis[1] - axis[0]) for axis in (self.y, self.x) if axis.size > 1]
        return max(steps, default=1.0)

    def ellipsoid(self, at: Zyx, half: Zyx) -> tuple[Place, Floats]:
        """Return the pixels around an ellipsoid, and the fraction of each that lies in it."""
        grown = float(np.sqrt(max(1 - ((self.z - at[0]) / half[0]) ** 2, 0.0)))
        a, b = half[1] * grown, half[2] * grown
        if min(a, b) < self.pixel_mm / 4:
            return (slice(0), slice(0)), np.zeros((0, 0), np.float32)
        place = _between(self.y, at[1], a + self.pixel_mm), _between(self.x, at[2], b + self.pixel_mm)
        radius = np.hypot((self.y[place[0], None] - at[1]) / a, (self.x[None, place[1]] - at[2]) / b)
        return place, np.clip(0.5 + (1 - radius) * (min(a, b) / self.pixel_mm), 0, 1).astype(np.float32)

    def blend(self, place: Place, share: Floats, hu: Floats | float) -> None:
        """Blend `hu` over the existing values, by its share of each pixel."""
        self.hu[place] += share * (hu - self.hu[place])

    def paint(self, at: Zyx, half: Zyx, hu: float) -> None:
        """Fill an ellipsoid."""
        self.blend(*self.ellipsoid(at, half), hu)


def _between(axis: Floats, middle: float, reach: float) -> slice:
    return slice(*np.searchsorted(axis, (middle - reach, middle + reach)).tolist())


def gaussian(deviation: float) -> Floats:
    """Return the taps of a Gaussian with sum 1; the deviation is in pixels."""
    reach = int(np.ceil(3 * deviation))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(deviation, 1e-6)) ** 2)
    normed: Floats = (taps / taps.sum()).astype(np.float32)
    return normed


def convolve(image: Floats, taps: Floats) -> Floats:
    """Convolve along the first axis; the edges are repeated."""
    reach = taps.size // 2
    padded = np.pad(image, ((reach, reach), (0, 0)), mode="edge")
    smooth = np.zeros_like(image)
    for k, tap in enumerate(taps):
        smooth += tap * padded[k : k + image.shape[0]]
    return smooth
