"""Where a bundle's windows lie in a scan, and how their voxels are weighted. Geometry only, no pixels.

`preprocess.py` has the definition; this module covers the part that needs only a volume's shape and affine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.spec import Preprocessing
from operators.errors import SeriesRejected, StartError
from operators.types import Volume

ARRAYS_ONLY = (
    "the bundle does not define how a scan becomes windows, so it runs on arrays only (ctvae bundle run); "
    "import it again with --spacing, --window-hu and --fit"
)

MAX_GRID_BYTES = 4 << 30
"""Limit for all windows of a scan and their canvas: two metres at 1 mm in windows of 256² take some 1.5 GiB."""

SLIVER = 0.01  # fraction of a new voxel that may stay uncovered at each end
NOTHING = 1e-6  # fraction of a new voxel: less than this inside the scan is rounding


@dataclass(frozen=True, slots=True)
class TargetAxis:
    """The new grid along one patient axis.

    Attributes:
        volume_axis: axis of the volume: 0 for slices, 1 for rows, 2 for columns.
        flipped: whether the volume runs towards feet, front or right along it.
        n_source, n_target: numbers of old and new voxels.
        first: position of the first new voxel's centre, in old voxels, counted from the feet, front or right.
        step: new spacing over old spacing.
        spacing_mm: new spacing.
    """

    volume_axis: int
    flipped: bool
    n_source: int
    n_target: int
    first: float
    step: float
    spacing_mm: float

    def weights(self) -> AxisWeights:
        """Return the weights of the new voxels, in order; sources are indices of the volume."""
        found = axis_weights(self.n_source, self.n_target, self.first, self.step)
        if not self.flipped:
            return found
        return AxisWeights(found.begin, self.n_source - 1 - found.source, found.weight, found.inside)


def target_axes(volume: Volume, settings: Preprocessing) -> tuple[TargetAxis, TargetAxis, TargetAxis]:
    """Return the new grid along (z, y, x); along z it holds all windows.

    Raises:
        StartError: `ARRAYS_ONLY`: the bundle does not define how a scan becomes a window.
        SeriesRejected: `GRID_TOO_LARGE`.
    """
    if settings.fit == "array":
        raise StartError("ARRAYS_ONLY", ARRAYS_ONLY)
    spacing_mm = np.linalg.norm(volume.affine_lps_mm[:3, :3], axis=0)
    made = []
    for patient_axis, (volume_axis, flipped) in enumerate(patient_axes(volume.affine_lps_mm)):
        n_source, old_mm = volume.shape[volume_axis], float(spacing_mm[volume_axis])
        n_target = settings.window_voxels[patient_axis]
        if settings.spacing_mm is None:
            step = n_source / n_target
        else:
            step = settings.spacing_mm[patient_axis] / old_mm
            if patient_axis == 0:
                n_target = max(n_target, math.ceil(n_source / step - 2 * SLIVER))
        first = (n_source - 1) / 2 - (n_target - 1) / 2 * step
        made.append(TargetAxis(volume_axis, flipped, n_source, n_target, first, step, step * old_mm))
    _check_size(made[0].n_target, settings)
    return made[0], made[1], made[2]


def _check_size(n_canvas: int, settings: Preprocessing) -> None:
    """Check that the windows and their canvas, both float32, are within the size limit.

    Raises:
        SeriesRejected: `GRID_TOO_LARGE`.
    """
    depth, rows, columns = settings.window_voxels
    slices = n_canvas + depth * count_windows(n_canvas, depth, settings.overlap)
    if 4 * slices * rows * columns > MAX_GRID_BYTES:
        spacing = settings.spacing_mm or (0.0, 0.0, 0.0)
        raise SeriesRejected(
            "GRID_TOO_LARGE",
            f"windows of {depth} × {rows} × {columns} voxels, {spacing[0]:g} mm apart along z, take "
            f"{4 * slices * rows * columns / (1 << 30):.3g} GiB for this scan; expected at most "
            f"{MAX_GRID_BYTES >> 30}; use a bundle of a coarser spacing",
        )


def patient_axes(affine_lps_mm: NDArray[np.float64]) -> tuple[tuple[int, bool], ...]:
    """Return, for each of (z, y, x), the axis of the volume assigned to it, and whether that axis is reversed.

    The rule is that of nibabel's `io_orientation`: take the rotation nearest to the directions; then the best aligned
    axis of the volume gets its patient axis first.
    """
    directions = affine_lps_mm[:3, :3] / np.linalg.norm(affine_lps_mm[:3, :3], axis=0)
    u, _, vt = np.linalg.svd(directions)
    rotation = u @ vt
    assigned: dict[int, tuple[int, bool]] = {}
    for axis in np.argsort(-(rotation**2).max(axis=0), kind="stable").tolist():
        free = [row for row in range(3) if row not in assigned]
        nearest = max(free, key=lambda row: abs(rotation[row, axis]))
        assigned[nearest] = (axis, bool(rotation[nearest, axis] < 0))
    return assigned[2], assigned[1], assigned[0]


def window_starts(n_canvas: int, depth: int, overlap: float) -> list[int]:
    """Return the first voxel of each window along z: from 0 to n_canvas - depth, evenly spread."""
    room, gaps = n_canvas - depth, count_windows(n_canvas, depth, overlap) - 1
    return [(2 * i * room + gaps) // (2 * gaps) for i in range(gaps + 1)] if gaps else [0]


def count_windows(n_canvas: int, depth: int, overlap: float) -> int:
    """Return the number of windows that cover a canvas along z."""
    longest_step = max(1, depth - math.ceil(overlap * depth - 1e-9))
    return 1 + max(0, -(-(n_canvas - depth) // longest_step))


def window_affine(volume: Volume, axes: tuple[TargetAxis, ...], start: int) -> NDArray[np.float64]:
    """Return the affine, float64 (4, 4), from the index (d, h, w, 1) of the window that starts at `start` to LPS mm."""
    affine = np.eye(4)
    affine[:3, 3] = volume.affine_lps_mm[:3, 3]
    for column, axis in enumerate(axes):
        direction = volume.affine_lps_mm[:3, axis.volume_axis]
        first = axis.first + (start * axis.step if column == 0 else 0.0)
        affine[:3, column] = direction * (-axis.step if axis.flipped else axis.step)
        affine[:3, 3] += direction * (axis.n_source - 1 - first if axis.flipped else first)
    return affine


@dataclass(frozen=True, slots=True)
class AxisWeights:
    """How each new voxel along one axis is made of old ones.

    Attributes:
        begin: the first new voxel that is at least partly inside the scan; the rows below start there.
        source: intp (m, taps), indices of old voxels.
        weight: float32 (m, taps), non-negative, each row with sum 1.
        inside: float64 (n_target,), fraction of each new voxel inside the scan.
    """

    begin: int
    source: NDArray[np.intp]
    weight: NDArray[np.float32]
    inside: NDArray[np.float64]

    @property
    def inner(self) -> slice:
        """The new voxels that are at least partly inside the scan."""
        return slice(self.begin, self.begin + len(self.source))


def axis_weights(n_source: int, n_target: int, first: float, step: float) -> AxisWeights:
    """Return the weights along one axis.

    Args:
        n_source: number of old voxels; voxel i reaches from i - 0.5 to i + 0.5.
        n_target: number of new voxels, `step` wide, with centres at first, first + step, …; at least one lies inside
            the scan.
        first: centre of the first new voxel, in old voxels.
        step: width of a new voxel, in old voxels.
    """
    centre = first + step * np.arange(n_target)
    low = np.clip(centre - step / 2, -0.5, n_source - 0.5)
    high = np.clip(centre + step / 2, -0.5, n_source - 0.5)
    inside = (high - low) / step
    real = np.flatnonzero(inside > NOTHING)
    begin, end = int(real[0]), int(real[-1]) + 1
    inside[:begin] = inside[end:] = 0
    if step > 1:
        source, weight = _mean_over(low[begin:end] + 0.5, high[begin:end] + 0.5, n_source, math.ceil(step) + 1)
    else:
        source, weight = _between_centres(centre[begin:end], n_source)
    return AxisWeights(begin, source, weight.astype(np.float32), inside)


def _mean_over(
    low: NDArray[Any], high: NDArray[Any], n_source: int, taps: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the area integral: weight each old voxel [i, i + 1] by its part of [low, high]."""
    source = np.floor(low).astype(np.intp)[:, None] + np.arange(min(taps, n_source))
    overlap = np.minimum(high[:, None], source + 1) - np.maximum(low[:, None], source)
    weight = np.where(source < n_source, np.maximum(overlap, 0), 0)
    return np.minimum(source, n_source - 1), weight / weight.sum(axis=1, keepdims=True)


def _between_centres(centre: NDArray[Any], n_source: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return linear interpolation; beyond the outermost centres, their value."""
    at = np.clip(centre, 0, n_source - 1)
    below = np.minimum(np.floor(at), max(n_source - 2, 0)).astype(np.intp)
    part = at - below
    return np.stack([below, np.minimum(below + 1, n_source - 1)], axis=1), np.stack([1 - part, part], axis=1)
