"""Slices above one another along their normal: one at each place, none shifted, all the same distance apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from operators.geometry.policy import GeometryPolicy
from operators.geometry.repair import Stack, fill_missing, resample_stack
from operators.types import SeriesRejected

SAME_POSITION_MM: Final = 0.01
"""Two slices nearer than this are at one place: the thinnest CT slices are ten times as far apart."""

OFF_GRID_SPACING: Final = (0.05, 0.15)
OFF_GRID_MM: Final = 0.06
"""How far a slice may lie from its place on the regular grid: a twentieth of the spacing; and, as positions are often
rounded to 0.1 mm, 0.06 mm where that is no more than 0.15 of the spacing. A missing slice is half a spacing off."""

OFF_AXIS_PIXELS: Final = 0.5
OFF_AXIS_MM: Final = 0.5
"""How far, at right angles to the normal, the origin of a slice may lie from the line through the first: half a pixel,
and at most 0.5 mm. More than that is a tilt or a shift, and a grid with right angles would misplace voxels."""

MAX_TILT_DEGREES: Final = 35.0
"""Gantries tilt by up to 30°; positions on a line more slanted than this are wrong, or of something else."""

SPLITTING_TAGS: Final = (
    *("AcquisitionNumber", "TemporalPositionIndex", "TemporalPositionIdentifier", "TriggerTime"),
    *("NominalPercentageOfCardiacPhase", "AcquisitionTime", "ContentTime", "ConvolutionKernel", "ImageType"),
)
"""What tells apart the volumes of a series that holds several at the same positions."""

_Array = NDArray[np.float64]


def check_one_slice_a_position(heights: _Array, headers: Sequence[Dataset]) -> None:
    """Of slices sorted by height along their normal, in mm.

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
        by = _what_splits(groups, counts, headers)
        told_apart = (
            f"they differ in {', '.join(by)}, as phases or time points do" if by else "nothing tells them apart"
        )
        raise SeriesRejected(
            "DUPLICATE_POSITIONS",
            f"found {len(heights)} slices at {len(counts)} positions, up to {counts.max()} at one; expected one; "
            f"{told_apart}; send one volume at a time",
        )


def _what_splits(groups: NDArray[Any], counts: NDArray[Any], headers: Sequence[Dataset]) -> list[str]:
    """Keywords by whose values the slices fall into volumes with one slice a position."""
    by = []
    for keyword in SPLITTING_TAGS:
        volumes: dict[str, list[int]] = {}
        for group, header in zip(groups, headers, strict=True):
            volumes.setdefault(str(header.get(keyword)), []).append(int(group))
        if len(volumes) == counts.max() and all(len(set(one)) == len(one) for one in volumes.values()):
            by.append(keyword)
    return by


def slice_tilt(positions: _Array, normal: _Array, pixel_mm: float, policy: GeometryPolicy) -> float | None:
    """By how many degrees the line of the origins, (slices, 3) in mm, is off the normal; None where it is along it.

    Raises:
        SeriesRejected: `SHIFTED_SLICES` where they do not lie on a straight line; `GANTRY_TILT` where they do, and the
            policy or the angle forbids to straighten them.
    """
    steps = positions - positions[0]
    heights = steps @ normal
    aside = steps - np.outer(heights, normal)
    allowed = min(OFF_AXIS_PIXELS * pixel_mm, OFF_AXIS_MM)
    worst = float(np.linalg.norm(aside, axis=1).max())
    if worst <= allowed:
        return None
    slope = aside.T @ heights / (heights @ heights)
    residual = float(np.linalg.norm(aside - np.outer(heights, slope), axis=1).max())
    if residual > allowed:
        raise SeriesRejected(
            "SHIFTED_SLICES",
            f"slices are shifted by up to {worst:.2f} mm in their plane; expected at most {allowed:.2f} mm",
        )
    degrees = math.degrees(math.atan(float(np.linalg.norm(slope))))
    if policy.gantry_tilt == "reject" or degrees > MAX_TILT_DEGREES:
        expected = "none" if policy.gantry_tilt == "reject" else f"at most {MAX_TILT_DEGREES:g}°"
        raise SeriesRejected(
            "GANTRY_TILT",
            f"the slice axis is {degrees:.2f}° off the normal of the slices; expected {expected} (gantry tilt); "
            "straighten the series first",
        )
    return degrees


def stack_slices(heights: _Array, policy: GeometryPolicy) -> Stack:
    """The regular stack on which the slices lie, or that the policy makes of them.

    Args:
        heights: of the slices, rising, in mm.
        policy: what is repaired.

    Raises:
        SeriesRejected: `MISSING_SLICE` where the odd gaps are few and whole multiples of the usual one, else
            `IRREGULAR_SPACING`.
    """
    spacing = float(heights[-1] - heights[0]) / (len(heights) - 1)
    off_grid = np.abs(heights - np.linspace(heights[0], heights[-1], len(heights)))
    if off_grid.max() <= allowed_off_grid_mm(spacing):
        return Stack(spacing)
    gaps = np.diff(heights)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    times = np.rint(gaps / usual)
    whole = np.abs(gaps - times * usual) <= 2 * allowed_off_grid_mm(usual)
    if whole.all() and times.min() >= 1 and 2 * np.count_nonzero(times > 1) < len(gaps):
        first = int(np.argmax(times > 1))
        found = (
            f"found a gap of {gaps[first]:.2f} mm after slice {first + 1} of {len(heights)}, {int((times - 1).sum())} "
            f"missing in all; expected {usual:.2f} mm throughout"
        )
        if policy.missing_slice == "interpolate":
            return fill_missing(heights, times, found)
        raise SeriesRejected("MISSING_SLICE", f"{found}; get the whole series")
    found = (
        f"found distances of slices from {gaps.min():.2f} to {gaps.max():.2f} mm; expected {usual:.2f} mm throughout"
    )
    if policy.irregular_spacing == "resample":
        return resample_stack(heights, found)
    raise SeriesRejected("IRREGULAR_SPACING", f"{found}; send one stack at a time")


def allowed_off_grid_mm(spacing_mm: float) -> float:
    """How far from its place on the grid a slice may lie."""
    low, high = (part * spacing_mm for part in OFF_GRID_SPACING)
    return min(max(low, OFF_GRID_MM), high)
