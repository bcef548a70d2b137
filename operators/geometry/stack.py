"""Slices stacked along their normal: one at each position, none shifted, all the same distance apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from operators.errors import SeriesRejected
from operators.geometry.line import Line, line_through_ends, nearest_line
from operators.geometry.policy import GeometryPolicy
from operators.geometry.repair import Stack, fill_missing, resample_stack

SAME_POSITION_MM: Final = 0.01
"""Two slices nearer than this are at one position: the thinnest CT slices are ten times as far apart."""

OFF_GRID_SPACING: Final = (0.05, 0.15)
OFF_GRID_MM: Final = 0.06
"""Largest distance of a slice from its place on the regular grid: a twentieth of the spacing; and, as coordinates are
often rounded to 0.1 mm, 0.06 mm where that is at most 0.15 of the spacing. A missing slice is half a spacing off."""

OFF_AXIS_PIXELS: Final = 0.5
OFF_AXIS_MM: Final = 0.5
"""Largest distance, at right angles to the normal, of a slice's origin from the line through the first: half a pixel
and at most 0.5 mm. Anything more is a tilt or a shift, and a grid with right angles would misplace voxels."""

MAX_TILT_DEGREES: Final = 35.0
"""Gantries tilt by up to 30°; positions on a more slanted line are wrong or not those of a CT."""

SPLITTING_TAGS: Final = (
    *("AcquisitionNumber", "TemporalPositionIndex", "TemporalPositionIdentifier", "TriggerTime"),
    *("NominalPercentageOfCardiacPhase", "AcquisitionTime", "ContentTime", "ConvolutionKernel", "ImageType"),
)
"""What distinguishes the volumes of a series that holds several at the same positions."""

_Array = NDArray[np.float64]


def check_one_slice_per_position(heights: _Array, headers: Sequence[Dataset] = ()) -> None:
    """Check slices that are sorted by height along their normal, in mm.

    Raises:
        SeriesRejected: `SINGLE_POSITION` or `DUPLICATE_POSITIONS`.
    """
    if heights[-1] - heights[0] < SAME_POSITION_MM:
        raise SeriesRejected(
            "SINGLE_POSITION",
            f"all {len(heights)} slices are at one position; expected a stack of them (bolus tracking?)",
        )
    groups = np.concatenate([[0], np.cumsum(np.diff(heights) >= SAME_POSITION_MM)])
    counts = np.bincount(groups)
    if counts.max() > 1:
        by = _what_splits(groups, counts, headers) if headers else []
        told_apart = (
            f"they differ in {', '.join(by)}, as phases or time points do"
            if by
            else "no header value that ctvae reads divides them into whole volumes"
        )
        raise SeriesRejected(
            "DUPLICATE_POSITIONS",
            f"found {len(heights)} slices at {len(counts)} positions, up to {counts.max()} at one; expected one; "
            f"{told_apart}; send one volume at a time",
        )


def _what_splits(groups: NDArray[Any], counts: NDArray[Any], headers: Sequence[Dataset]) -> list[str]:
    """Return keywords whose values divide the slices into volumes with one slice per position."""
    by = []
    for keyword in SPLITTING_TAGS:
        volumes: dict[str, list[int]] = {}
        for group, header in zip(groups, headers, strict=True):
            volumes.setdefault(str(header.get(keyword)), []).append(int(group))
        if len(volumes) == counts.max() and all(len(set(volume)) == len(volume) for volume in volumes.values()):
            by.append(keyword)
    return by


def slice_tilt(positions: _Array, normal: _Array, pixel_mm: float, policy: GeometryPolicy) -> float | None:
    """Return the angle in degrees between the line of the origins, (slices, 3) in mm, and the normal; None for 0.

    Raises:
        SeriesRejected: `SHIFTED_SLICES` where they do not lie on a straight line; `GANTRY_TILT` where they do, and the
            policy or the angle forbids straightening them.
    """
    steps = positions - positions[0]
    heights = steps @ normal
    aside = steps - np.outer(heights, normal)
    allowed = min(OFF_AXIS_PIXELS * pixel_mm, OFF_AXIS_MM)
    worst = float(np.linalg.norm(aside, axis=1).max())
    if worst <= allowed:
        return None
    heights, aside = heights - heights.mean(), aside - aside.mean(axis=0)
    slope = aside.T @ heights / (heights @ heights)
    residual = float(np.linalg.norm(aside - np.outer(heights, slope), axis=1).max())
    if residual > allowed:
        raise SeriesRejected(
            "SHIFTED_SLICES",
            f"slices are shifted by up to {worst:.2f} mm in their plane; expected at most {allowed:.2f} mm",
        )
    if float(np.linalg.norm(slope)) * float(np.ptp(heights)) <= allowed:
        return None  # it is the first slice that is off the line
    degrees = math.degrees(math.atan(float(np.linalg.norm(slope))))
    if policy.gantry_tilt == "reject" or degrees > MAX_TILT_DEGREES:
        expected = "none" if policy.gantry_tilt == "reject" else f"at most {MAX_TILT_DEGREES:g}°"
        raise SeriesRejected(
            "GANTRY_TILT",
            f"the slice axis is {degrees:.2f}° off the normal of the slices; expected {expected} (gantry tilt); "
            "straighten the series first",
        )
    return degrees


def stack_slices(heights: _Array, policy: GeometryPolicy, rounded_axes: float = 1.0) -> Stack:
    """Return the regular stack on which the slices lie, or that the policy makes of them.

    Args:
        heights: heights of the slices, increasing, in mm.
        policy: what to repair.
        rounded_axes: the sum of the normal's absolute components, 1 to √3: the factor by which rounded coordinates move
            the height.

    Raises:
        SeriesRejected: `MISSING_SLICE` where the slices lie on a regular grid with a few empty places; else
            `IRREGULAR_SPACING`.
    """
    if line := _fitting_line(heights, np.arange(len(heights)), rounded_axes):
        return Stack(line.spacing_mm, first_mm=line.first_mm - float(heights[0]))
    gaps, places = np.diff(heights), places_with_gaps(heights)
    if places is not None and (line := _fitting_line(heights, places, rounded_axes)):
        first = int(np.argmax(np.diff(places) > 1))
        found = (
            f"found a gap of {gaps[first]:.2f} mm after slice {first + 1} of {len(heights)}, "
            f"{int(places[-1]) + 1 - len(heights)} missing in all; expected {line.spacing_mm:.2f} mm throughout"
        )
        if policy.missing_slice == "interpolate":
            return fill_missing(heights, places, line, found)
        raise SeriesRejected("MISSING_SLICE", f"{found}; get the whole series")
    median = _median(gaps)
    found = f"found slices that are {gaps.min():.2f} to {gaps.max():.2f} mm apart; expected {median:.2f} mm throughout"
    if policy.irregular_spacing == "resample":
        return resample_stack(heights, found)
    raise SeriesRejected("IRREGULAR_SPACING", f"{found}; send one stack at a time")


def places_with_gaps(heights: _Array) -> NDArray[np.intp] | None:
    """Return the places, from 0, of slices on a grid from which a few are missing; None where they lie on none.

    Args:
        heights: heights of the slices, increasing, in mm.
    """
    gaps = np.diff(heights)
    usual = float(gaps[gaps < 1.5 * _median(gaps)].mean())
    steps = np.rint(gaps / usual).astype(np.intp)
    on_grid = np.abs(gaps - steps * usual) <= 2 * allowed_off_grid_mm(usual)
    few = 0 < 2 * np.count_nonzero(steps > 1) < len(gaps)
    return np.concatenate([[0], np.cumsum(steps)]) if on_grid.all() and steps.min() >= 1 and few else None


def _median(gaps: _Array) -> float:
    return float(np.sort(gaps)[(len(gaps) - 1) // 2])


def _fitting_line(heights: _Array, places: NDArray[np.intp], rounded_axes: float) -> Line | None:
    """Return the regular grid that is close enough to all slices; None where there is none."""
    lines = (find(heights, places) for find in (line_through_ends, nearest_line))
    return next((line for line in lines if line.off_mm <= allowed_off_grid_mm(line.spacing_mm, rounded_axes)), None)


def allowed_off_grid_mm(spacing_mm: float, rounded_axes: float = 1.0) -> float:
    """Return how far a slice may lie from its place on the grid, in mm."""
    low, high = (part * spacing_mm for part in OFF_GRID_SPACING)
    return min(max(low, OFF_GRID_MM * rounded_axes), high)
