"""Slices off a regular grid → a regular grid, where a policy asks for it: by linear interpolation of two neighbours.

Interpolated slices were not scanned, so their number is limited, and each has its finding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from operators.errors import SeriesRejected
from operators.geometry.line import Line

MAX_GAP_MM: Final = 10.0
"""Largest gap to interpolate across: CT is read in slices of up to 10 mm; nobody saw what a wider gap holds."""

MAX_MISSING: Final = 0.1
"""Largest share of a volume's slices to interpolate: nine tenths of what is measured were scanned. Never two in a row:
each interpolated slice lies between two scanned ones."""

MAX_SLICES_FACTOR: Final = 4
"""Largest number of slices of a resampled stack per scanned slice: thin and thick slices of one scan pass, two that
nearly coincide do not."""

SMALL_WEIGHT: Final = 1e-3
"""A slice with a smaller weight is left out: of 1000 HU it would contribute 1."""

Sources = tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True, slots=True)
class Stack:
    """A regular stack of slices.

    Attributes:
        spacing_mm: distance between neighbours.
        sources: for each of its slices, (slice in order of height, weight); None where they are the scanned ones.
        filled: its slices that are interpolated for a missing one.
        resampled: what was irregular, in words; empty where nothing was.
        first_mm: height of its first slice above the lowest scanned one: of the order of rounding.
    """

    spacing_mm: float
    sources: Sources | None = None
    filled: tuple[int, ...] = ()
    resampled: str = ""
    first_mm: float = 0.0


def fill_missing(heights: NDArray[np.float64], places: NDArray[np.intp], line: Line, message: str) -> Stack:
    """Return a stack in which each missing slice is replaced by the mean of its neighbours.

    Args:
        heights: heights of the slices, increasing, in mm.
        places: places of the slices in the stack, from 0, increasing; at least one place is missing.
        line: the line they lie on.
        message: what is wrong, for the error if there is too much of it.

    Raises:
        SeriesRejected: `MISSING_SLICE`: several are missing in a row, more than a tenth in all, or across more
            than 10 mm.
    """
    steps = np.diff(places)
    count = int(places[-1]) + 1
    widest = float(np.diff(heights)[steps > 1].max())
    missing = count - len(heights)
    if steps.max() > 2 or missing > MAX_MISSING * count or widest > MAX_GAP_MM:
        raise SeriesRejected(
            "MISSING_SLICE",
            f"{message}; only single slices can be interpolated, at most {MAX_MISSING:.0%}, across {MAX_GAP_MM:g} mm",
        )
    stored = {int(place): index for index, place in enumerate(places)}
    filled = tuple(place for place in range(count) if place not in stored)
    sources = tuple(
        ((stored[place], 1.0),) if place in stored else ((stored[place - 1], 0.5), (stored[place + 1], 0.5))
        for place in range(count)
    )
    return Stack(line.spacing_mm, sources, filled, first_mm=line.first_mm - float(heights[0]))


def resample_stack(heights: NDArray[np.float64], message: str) -> Stack:
    """Return a regular stack from the first slice to the last, at the smallest distance found, linear between slices.

    Args:
        heights: heights of the slices, increasing, in mm.
        message: what is wrong, for the error if there is too much of it.

    Raises:
        SeriesRejected: `IRREGULAR_SPACING`: a gap is wider than 10 mm, or the stack would have more than four slices
            per scanned slice.
    """
    gaps = np.diff(heights)
    extent = float(heights[-1] - heights[0])
    count = round(extent / float(gaps.min())) + 1
    if gaps.max() > MAX_GAP_MM or count > MAX_SLICES_FACTOR * len(heights):
        raise SeriesRejected(
            "IRREGULAR_SPACING",
            f"{message}; only gaps up to {MAX_GAP_MM:g} mm can be resampled, to {MAX_SLICES_FACTOR} slices per scanned",
        )
    wanted = np.linspace(heights[0], heights[-1], count)
    below = np.clip(np.searchsorted(heights, wanted, side="right") - 1, 0, len(heights) - 2)
    above = np.clip((wanted - heights[below]) / gaps[below], 0.0, 1.0)
    sources = tuple(_pair(int(index), float(weight)) for index, weight in zip(below, above, strict=True))
    between = sum(len(pair) > 1 for pair in sources)
    resampled = (
        f"slices were {gaps.min():.2f} to {gaps.max():.2f} mm apart: {between} of {count} are interpolated between two"
    )
    return Stack(extent / (count - 1), sources, resampled=resampled)


def _pair(below: int, weight_above: float) -> tuple[tuple[int, float], ...]:
    if weight_above < SMALL_WEIGHT:
        return ((below, 1.0),)
    if weight_above > 1 - SMALL_WEIGHT:
        return ((below + 1, 1.0),)
    return (below, 1 - weight_above), (below + 1, weight_above)
