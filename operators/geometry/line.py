"""The straight line that is nearest to the heights of slices: their regular grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_HALVINGS: Final = 50  # of an interval of slopes: to the last bits of a float64


@dataclass(frozen=True, slots=True)
class Line:
    """Heights of a regular grid: `first_mm + place * spacing_mm`.

    Attributes:
        off_mm: how far the farthest slice lies from its place.
    """

    first_mm: float
    spacing_mm: float
    off_mm: float


def line_through_ends(heights: NDArray[np.float64], places: NDArray[np.intp]) -> Line:
    """Return the line through the first and the last slice.

    Args:
        heights: of the slices, rising, in mm.
        places: of the slices on the grid, from 0, rising.
    """
    spacing_mm = float(heights[-1] - heights[0]) / int(places[-1])
    return Line(float(heights[0]), spacing_mm, float(np.abs(heights - heights[0] - spacing_mm * places).max()))


def nearest_line(heights: NDArray[np.float64], places: NDArray[np.intp]) -> Line:
    """Return the line whose largest deviation is smallest (Chebyshev); arguments as above.

    Of positions that were rounded it is never farther off than the rounding; a line through two of them, or of least
    squares, can be off by twice as much.
    """
    slopes = np.diff(heights) / np.diff(places)
    low, high = float(slopes.min()), float(slopes.max())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        rest = heights - middle * places
        # A steeper line brings the highest and the lowest nearer to each other where the highest comes later.
        low, high = (middle, high) if rest.argmax() > rest.argmin() else (low, middle)
    rest = heights - high * places
    return Line(float(rest.max() + rest.min()) / 2, high, float(np.ptp(rest)) / 2)
