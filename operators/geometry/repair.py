"""Slices that are not on a regular grid → one, where a policy asks for it: by linear interpolation of two neighbours.

What is interpolated was not scanned, so it is bounded, and each place has its finding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from operators.errors import SeriesRejected
from operators.geometry.line import Line

MAX_GAP_MM: Final = 10.0
"""Between two slices that are interpolated: CT is read in slices of up to 10 mm; what a wider gap holds nobody saw."""

MAX_MISSING: Final = 0.1
"""Of the slices of a volume that may be interpolated: nine tenths of what is measured were scanned. Never two in a row:
each lies between two that were."""

MAX_SLICES_FACTOR: Final = 4
"""How many slices a resampled stack may have for each that was scanned: thin and thick slices of one scan pass, two
that nearly coincide do not."""

SMALL_WEIGHT: Final = 1e-3
"""A slice of less weight is left out: of 1000 HU it would give 1."""

Sources = tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True, slots=True)
class Stack:
    """A regular stack of slices.

    Attributes:
        spacing_mm: distance of neighbours.
        sources: for each of its slices, (slice in order of height, weight); None where they are the scanned ones.
        filled: which of its slices are interpolated in the place of a missing one.
        resampled: what was irregular, in words; empty where nothing was.
        first_mm: height of its first slice above the lowest that was scanned: of the order of rounding.
    """

    spacing_mm: float
    sources: Sources | None = None
    filled: tuple[int, ...] = ()
    resampled: str = ""
    first_mm: float = 0.0


def fill_missing(heights: NDArray[np.float64], places: NDArray[np.intp], line: Line, message: str) -> Stack:
    """Return a stack with the mean of its neighbours in the place of each missing slice.

    Args:
        heights: of the slices, rising, in mm.
        places: of the slices in the stack, from 0, rising; those that are not there are missing, at least one.
        line: on which they lie.
        message: what is wrong, for the case that it is too much.

    Raises:
        SeriesRejected: `MISSING_SLICE`, where several are missing in a row, more than a tenth in all, or across more
            than 10 mm.
    """
    steps = np.diff(places)
    count = int(places[-1]) + 1
    widest = float(np.diff(heights)[steps > 1].max())
    missing = count - len(heights)
    if steps.max() > 2 or missing > MAX_MISSING * count or widest > MAX_GAP_MM:
        raise SeriesRejected(
            "MISSING_SLICE",
            f"{message}; interpolated are single ones, up to {MAX_MISSING:.0%} of all and across {MAX_GAP_MM:g} mm",
        )
    stored = {int(place): index for index, place in enumerate(places)}
    filled = tuple(place for place in range(count) if place not in stored)
    sources = tuple(
        ((stored[place], 1.0),) if place in stored else ((stored[place - 1], 0.5), (stored[place + 1], 0.5))
        for place in range(count)
    )
    return Stack(line.spacing_mm, sources, filled, first_mm=line.first_mm - float(heights[0]))


def resample_stack(heights: NDArray[np.float64], message: str) -> Stack:
    """A regular stack from the first slice to the last, as far apart as the two nearest are, linear between slices.

    Args:
        heights: of the slices, rising, in mm.
        message: what is wrong, for the case that it is too much.

    Raises:
        SeriesRejected: `IRREGULAR_SPACING`, where a gap is wider than 10 mm, or it would have more than four slices for
            each that was scanned.
    """
    gaps = np.diff(heights)
    extent = float(heights[-1] - heights[0])
    count = round(extent / float(gaps.min())) + 1
    if gaps.max() > MAX_GAP_MM or count > MAX_SLICES_FACTOR * len(heights):
        raise SeriesRejected(
            "IRREGULAR_SPACING",
            f"{message}; resampled are gaps of up to {MAX_GAP_MM:g} mm to {MAX_SLICES_FACTOR} slices for each scanned",
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
