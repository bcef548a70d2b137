"""Positions of the slices in the patient → one regular grid, or the reason why they do not form one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from operators.dicom.pixel_format import MAX_SIDE
from operators.errors import SeriesRejected
from operators.geometry.planes import (
    SPACING_RANGE_MM,
    Planes,
    check_extent,
    missing_geometry,
    one_matrix,
    one_orientation,
    one_pixel_spacing,
    read_planes,
)
from operators.geometry.policy import MIN_SLICES, NO_REPAIR, GeometryPolicy
from operators.geometry.repair import Sources, Stack
from operators.geometry.resampling import Resampling
from operators.geometry.stack import allowed_off_grid_mm, check_one_slice_per_position, slice_tilt, stack_slices
from operators.types import Finding, Millimetres, Shape

OBLIQUE_DEGREES: Final = 1.0
"""Angle from which the scan's axes are called oblique to the patient's: 1° is 4 mm over a field of 250 mm."""

OFFSET_PARTS: Final = 1024
"""Fraction of a pixel to which a slice's shift is rounded: at an edge of 1000 HU it changes 0.5 HU."""

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Grid:
    """A regular grid in the patient.

    Attributes:
        order: indices of the instances along the normal; without resampling, the instance at each d.
        shape: (D, H, W).
        affine_lps_mm: float64 (4, 4), from (d, h, w, 1) to LPS mm.
        spacing_mm: (between slices, between rows, between columns).
        findings: `OBLIQUE`, `NOT_AXIAL`, `OVERLAPPING_SLICES`, `GAPS_BETWEEN_SLICES`, `MIXED_THICKNESS`,
            `GANTRY_TILT`, `MISSING_SLICE_INTERPOLATED`, `SPACING_RESAMPLED`.
        resampling: how the slices of the grid are made; None where they are the stored ones, in `order`.
    """

    order: tuple[int, ...]
    shape: Shape
    affine_lps_mm: _Array
    spacing_mm: Millimetres
    findings: tuple[Finding, ...]
    resampling: Resampling | None = None


def regular_grid(headers: Sequence[Dataset], policy: GeometryPolicy = NO_REPAIR) -> Grid:
    """Return the grid on which the slices lie, sorted along their normal = row direction × column direction.

    Args:
        headers: headers of the slices of one series, at least two, in any order.
        policy: what to repair.

    Raises:
        SeriesRejected: `MISSING_GEOMETRY`, `MIXED_MATRIX`, `MIXED_PIXEL_SPACING`, `MIXED_ORIENTATION`,
            `SINGLE_POSITION`, `DUPLICATE_POSITIONS`, `GANTRY_TILT`, `SHIFTED_SLICES`, `MISSING_SLICE` or
            `IRREGULAR_SPACING`.
    """
    planes = read_planes(headers)
    aligned = _align(planes, policy, headers)
    stack, positions, matrix = aligned.stack, planes.positions_mm[aligned.order], aligned.matrix
    affine = np.eye(4)
    affine[:3, :3] = aligned.directions * (stack.spacing_mm, *aligned.pixel_spacing_mm)
    affine[:3, 3] = positions[0]
    if stack.first_mm:
        affine[:3, 3] += stack.first_mm * aligned.directions[:, 0]
    normal, column, row = aligned.directions.T
    findings = direction_findings(np.stack([row, column, normal]))
    findings += [*_thickness_findings(planes, stack.spacing_mm), *_repair_findings(stack, affine)]
    sources = stack.sources or tuple(((d, 1.0),) for d in range(len(headers)))
    resampling = Resampling(sources, ((0.0, 0.0),) * len(headers), matrix) if stack.sources else None
    spacing_mm = (stack.spacing_mm, *aligned.pixel_spacing_mm)
    order = tuple(aligned.order.tolist())
    grid = Grid(order, (len(sources), *matrix), affine, spacing_mm, tuple(findings), resampling)
    return grid if aligned.tilt_degrees is None else _upright(grid, sources, positions, aligned.tilt_degrees)


def is_regular(planes: Planes) -> bool:
    """Return whether slices lie on one regular grid, with no repair except that of a gantry tilt."""
    return regular_spacing_mm(planes) is not None


def regular_spacing_mm(planes: Planes) -> float | None:
    """Return the distance between neighbouring slices in mm; None where they do not lie on one regular grid."""
    if len(planes) < MIN_SLICES:
        return None
    try:
        return _align(planes, NO_REPAIR).stack.spacing_mm
    except SeriesRejected:
        return None


@dataclass(frozen=True, slots=True)
class _Aligned:
    """Slices of one matrix, pixel spacing and orientation, in order along their normal.

    Attributes:
        order: indices of the slices.
        directions: float64 (3, 3), unit vectors as columns: along the normal, along a column, along a row.
        tilt_degrees: angle of a gantry tilt; None where the slices lie directly above one another.
    """

    order: NDArray[np.intp]
    directions: _Array
    pixel_spacing_mm: tuple[float, float]
    matrix: tuple[int, int]
    tilt_degrees: float | None
    stack: Stack


def _align(planes: Planes, policy: GeometryPolicy, headers: Sequence[Dataset] = ()) -> _Aligned:
    """Return the slices as one stack; headers serve the message about several slices at one position."""
    matrix, pixel_spacing_mm = one_matrix(planes), one_pixel_spacing(planes)
    row, column = one_orientation(planes)
    normal = np.cross(row, column)
    order = np.argsort(planes.positions_mm @ normal, kind="stable")
    positions = planes.positions_mm[order]
    heights = positions @ normal
    check_one_slice_per_position(heights, [headers[index] for index in order] if headers else ())
    tilt = slice_tilt(positions, normal, min(pixel_spacing_mm), policy)
    stack = stack_slices(heights, policy, rounded_axes=float(np.abs(normal).sum()))
    if not SPACING_RANGE_MM[0] <= stack.spacing_mm <= SPACING_RANGE_MM[1]:
        expected = f"{SPACING_RANGE_MM[0]:g} to {SPACING_RANGE_MM[1]:g} mm"
        raise missing_geometry(f"slices {stack.spacing_mm:g} mm apart", expected)
    check_extent((len(order), *matrix), (stack.spacing_mm, *pixel_spacing_mm))
    return _Aligned(order, np.stack([normal, column, row], axis=1), pixel_spacing_mm, matrix, tilt, stack)


def _repair_findings(stack: Stack, affine: _Array) -> list[Finding]:
    """Return a finding for each slice interpolated for a missing one, with its coordinate on the nearest axis."""
    axis = int(np.abs(affine[:3, 0]).argmax())
    places = [float(affine[axis, 3] + d * affine[axis, 0]) for d in stack.filled]
    findings = [
        Finding("MISSING_SLICE_INTERPOLATED", f"at {'xyz'[axis]} = {place:.2f} mm: the mean of its two neighbours")
        for place in places
    ]
    if stack.resampled:
        findings.append(Finding("SPACING_RESAMPLED", f"{stack.resampled}, {stack.spacing_mm:.4g} mm apart"))
    return findings


def _upright(grid: Grid, sources: Sources, positions: _Array, degrees: float) -> Grid:
    """Return the grid that covers all slices of a tilted gantry, each shifted in its plane by its own offset.

    Args:
        grid: at the position of the first slice.
        sources: the stored slices that each of its slices is made of.
        positions: positions of the slices in order, (slices, 3) in mm.
        degrees: tilt, for the finding.
    """
    depth, *matrix = grid.shape
    steps_mm = grid.affine_lps_mm[:3, 1:3]
    pixels = (positions - positions[0]) @ steps_mm / (steps_mm**2).sum(axis=0)  # (slices, 2): rows, columns
    first = pixels.min(axis=0)
    offsets = np.rint((pixels - first) * OFFSET_PARTS) / OFFSET_PARTS
    rows, columns = (int(size) for size in matrix + np.ceil(offsets.max(axis=0)))
    if max(rows, columns) > MAX_SIDE:
        raise SeriesRejected("GANTRY_TILT", f"slices straightened are {rows} × {columns}; expected at most {MAX_SIDE}")
    affine = grid.affine_lps_mm.copy()
    affine[:3, 3] += steps_mm @ first
    outside = 1 - matrix[0] * matrix[1] / (rows * columns)
    detail = (
        f"the slice axis was {degrees:.2f}° off the normal: each slice was shifted in its plane, by up to "
        f"{np.linalg.norm(steps_mm @ np.ptp(offsets, axis=0)):.1f} mm, onto a grid with right angles; {outside:.1%} of "
        "it lie outside of the slices and are air"
    )
    resampling = Resampling(sources, tuple((float(h), float(w)) for h, w in offsets), (rows, columns))
    findings = (*grid.findings, Finding("GANTRY_TILT", detail))
    return Grid(grid.order, (depth, rows, columns), affine, grid.spacing_mm, findings, resampling)


def direction_findings(directions: _Array) -> list[Finding]:
    """Return findings on row, column and normal, (3, 3): their angle to the patient's axes, and the nearest plane."""
    nearest = np.abs(directions).max(axis=1)
    degrees = math.degrees(math.acos(min(1.0, float(nearest.min()))))
    findings = []
    if degrees > OBLIQUE_DEGREES:
        findings.append(Finding("OBLIQUE", f"axes of the scan are up to {degrees:.1f}° off the patient's axes"))
    plane = ("sagittal", "coronal", "axial")[int(np.abs(directions[2]).argmax())]
    if plane != "axial":
        findings.append(Finding("NOT_AXIAL", f"slices are {plane}"))
    return findings


def _thickness_findings(planes: Planes, spacing_mm: float) -> list[Finding]:
    found = planes.thickness_mm[~np.isnan(planes.thickness_mm)]
    if not found.size or found.min() <= 0 or not math.isfinite(found.max()):
        return []
    thin, thick = float(found.min()), float(found.max())
    allowed = allowed_off_grid_mm(spacing_mm)
    findings = []
    if thick - thin > allowed:
        findings.append(Finding("MIXED_THICKNESS", f"slices are {thin:g} to {thick:g} mm thick"))
    distances = f"slices are {thick:g} mm thick and {spacing_mm:.4g} mm apart"
    if thick > spacing_mm + allowed:
        findings.append(Finding("OVERLAPPING_SLICES", distances))
    if thick < spacing_mm - allowed:
        findings.append(
            Finding("GAPS_BETWEEN_SLICES", f"{distances}: the tissue between them is in no slice of this volume")
        )
    return findings
