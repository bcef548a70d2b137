"""The straight line nearest to the heights of slices: their regular grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_HALVINGS: Final = 50  # bisections of an interval of slopes, down to the last bits of a float64


@dataclass(frozen=True, slots=True)
class Line:
    """Heights of a regular grid: `first_mm + place * spacing_mm`.

    Attributes:
        off_mm: largest distance of a slice from its place.
    """

    first_mm: float
    spacing_mm: float
    off_mm: float


def line_through_ends(heights: NDArray[np.float64], places: NDArray[np.intp]) -> Line:
    """Return the line through the first and the last slice.

    Args:
        heights: heights of the slices, increasing, in mm.
        places: places of the slices on the grid, from 0, increasing.
    """
    spacing_mm = float(heights[-1] - heights[0]) / int(places[-1])
    return Line(float(heights[0]), spacing_mm, float(np.abs(heights - heights[0] - spacing_mm * places).max()))


def nearest_line(heights: NDArray[np.float64], places: NDArray[np.intp]) -> Line:
    """Return the line whose largest deviation is smallest (Chebyshev); arguments as in `line_through_ends`.

    For rounded positions it is never farther off than the rounding; a line through two of them, or by least squares,
    can be off by twice as much.
    """
    slopes = np.diff(heights) / np.diff(places)
    low, high = float(slopes.min()), float(slopes.max())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        rest = heights - middle * places
        # A steeper line brings the highest and the lowest closer together where the highest comes later.
        low, high = (middle, high) if rest.argmax() > rest.argmin() else (low, middle)
    rest = heights - high * places
    return Line(float(rest.max() + rest.min()) / 2, high, float(np.ptp(rest)) / 2)
