"""Where the slices of a series lie in the patient → one regular grid, or the reason why they do not make one.

Image Plane module (PS3.3 C.7.6.2): all is computed from Image Position, Image Orientation and Pixel Spacing. No other
element is believed: InstanceNumber, SliceLocation, SpacingBetweenSlices and GantryDetectorTilt may be missing or wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from operators.dicom.pixel_format import MAX_SIDE
from operators.geometry.policy import NO_REPAIR, GeometryPolicy
from operators.geometry.repair import Sources, Stack
from operators.geometry.resampling import Resampling
from operators.geometry.stack import allowed_off_grid_mm, check_one_slice_a_position, slice_tilt, stack_slices
from operators.types import Finding, Millimetres, SeriesRejected, Shape

DIRECTION_TOLERANCE: Final = 1e-3
"""Of a direction cosine, and of length and right angle: over 250 mm, half a CT field, it moves a voxel by 0.25 mm."""

PIXEL_SPACING_TOLERANCE: Final = 1e-4
"""Relative, between slices: over a field of 500 mm it moves a voxel by 0.05 mm."""

SPACING_RANGE_MM: Final = (0.01, 100.0)
"""Of pixels and slices: outside it a length is not in mm, or not a length."""

POSITION_LIMIT_MM: Final = 1e5
"""Of a coordinate: a scanner's table is not 100 m long."""

OBLIQUE_DEGREES: Final = 1.0
"""From here on the axes of the scan are said to be oblique to the patient's: 1° is 4 mm over a field of 250 mm."""

OFFSET_PARTS: Final = 1024
"""Of a pixel, to which the shift of a slice is rounded: at an edge of 1000 HU it makes a difference of 0.5 HU."""

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Grid:
    """A regular grid in the patient.

    Attributes:
        order: indices of the instances along the normal; without a resampling, of the one at each d.
        shape: (D, H, W).
        affine_lps_mm: float64 (4, 4), from (d, h, w, 1) to LPS mm.
        spacing_mm: (between slices, between rows, between columns).
        findings: `OBLIQUE`, `NOT_AXIAL`, `OVERLAPPING_SLICES`, `GAPS_BETWEEN_SLICES`, `MIXED_THICKNESS`,
            `GANTRY_TILT`, `MISSING_SLICE_INTERPOLATED`, `SPACING_RESAMPLED`.
        resampling: what the slices of the grid are made of; None where they are the stored ones, in `order`.
    """

    order: tuple[int, ...]
    shape: Shape
    affine_lps_mm: _Array
    spacing_mm: Millimetres
    findings: tuple[Finding, ...]
    resampling: Resampling | None = None


def regular_grid(headers: Sequence[Dataset], policy: GeometryPolicy = NO_REPAIR) -> Grid:
    """The grid on which the slices lie, sorted along their normal = row direction × column direction.

    Args:
        headers: of the slices of one series, two at least, in any order.
        policy: what is repaired.

    Raises:
        SeriesRejected: `MISSING_GEOMETRY`, `MIXED_MATRIX`, `MIXED_PIXEL_SPACING`, `MIXED_ORIENTATION`,
            `SINGLE_POSITION`, `DUPLICATE_POSITIONS`, `GANTRY_TILT`, `SHIFTED_SLICES`, `MISSING_SLICE` or
            `IRREGULAR_SPACING`.
    """
    positions = _vectors(headers, "ImagePositionPatient", 3)
    if np.abs(positions).max() > POSITION_LIMIT_MM:
        raise _missing(f"an ImagePositionPatient of {np.abs(positions).max():g} mm", "a place in a scanner")
    matrix = _matrix(headers)
    between_rows, between_columns = _pixel_spacing(headers)
    row, column = _directions(headers)
    normal = np.cross(row, column)
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    heights = positions @ normal
    check_one_slice_a_position(heights, [headers[index] for index in order])
    tilt = slice_tilt(positions, normal, min(between_rows, between_columns), policy)
    stack = stack_slices(heights, policy)
    between_slices = stack.spacing_mm
    if not SPACING_RANGE_MM[0] <= between_slices <= SPACING_RANGE_MM[1]:
        raise _missing(f"slices {between_slices:g} mm apart", f"{SPACING_RANGE_MM[0]:g} to {SPACING_RANGE_MM[1]:g} mm")
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = normal * between_slices, column * between_rows, row * between_columns
    affine[:3, 3] = positions[0]
    findings = [*direction_findings(np.stack([row, column, normal])), *_thickness_findings(headers, between_slices)]
    findings += _repair_findings(stack, affine)
    sources = stack.sources or tuple(((d, 1.0),) for d in range(len(headers)))
    resampling = Resampling(sources, ((0.0, 0.0),) * len(headers), matrix) if stack.sources else None
    spacing_mm = (between_slices, between_rows, between_columns)
    shape = (len(sources), *matrix)
    grid = Grid(tuple(int(index) for index in order), shape, affine, spacing_mm, tuple(findings), resampling)
    return grid if tilt is None else _upright(grid, sources, positions, tilt)


def _repair_findings(stack: Stack, affine: _Array) -> list[Finding]:
    """One for each slice that is interpolated in the place of a missing one, named by its place on the nearest axis."""
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
    """The grid that covers all slices of a tilted gantry, each moved in its plane by its own offset.

    Args:
        grid: at the place of the first slice.
        sources: what each of its slices is made of.
        positions: of the slices in order, (slices, 3) in mm.
        degrees: for the finding.
    """
    depth, *matrix = grid.shape
    steps_mm = grid.affine_lps_mm[:3, 1:3]
    pixels = (positions - positions[0]) @ steps_mm / (steps_mm**2).sum(axis=0)  # (slices, 2): rows, columns
    first = pixels.min(axis=0)
    offsets = np.rint((pixels - first) * OFFSET_PARTS) / OFFSET_PARTS
    rows, columns = (int(one) for one in matrix + np.ceil(offsets.max(axis=0)))
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


def _vectors(headers: Sequence[Dataset], keyword: str, length: int) -> _Array:
    """(slices, length) finite numbers."""
    found = [numbers_in(header, keyword) for header in headers]
    bad = sum(len(vector) != length or not all(map(math.isfinite, vector)) for vector in found)
    if bad:
        raise _missing(f"no usable {keyword} in {bad} of {len(found)} slices", f"{length} numbers in each")
    return np.array(found)


def numbers_in(header: Dataset, keyword: str) -> list[float]:
    """The values of an element of numbers; none where it is missing or they are no numbers."""
    value = header.get(keyword)
    if value is None or isinstance(value, str | bytes):
        return []
    try:
        return [float(one) for one in value] if hasattr(value, "__iter__") else [float(value)]
    except (TypeError, ValueError, OverflowError):
        return []


def _matrix(headers: Sequence[Dataset]) -> tuple[int, int]:
    found = sorted({(int(header.Rows), int(header.Columns)) for header in headers})
    if len(found) > 1:
        listed = ", ".join(f"{rows} × {columns}" for rows, columns in found[:3])
        raise SeriesRejected("MIXED_MATRIX", f"found slices of {listed}; expected one size; send one stack at a time")
    return found[0]


def _pixel_spacing(headers: Sequence[Dataset]) -> tuple[float, float]:
    """(between rows, between columns), the order of the standard (PS3.3 10.7.1.3)."""
    found = _vectors(headers, "PixelSpacing", 2)
    low, high = found.min(axis=0), found.max(axis=0)
    if low.min() < SPACING_RANGE_MM[0] or high.max() > SPACING_RANGE_MM[1]:
        expected = f"{SPACING_RANGE_MM[0]:g} to {SPACING_RANGE_MM[1]:g} mm"
        raise _missing(f"a PixelSpacing of {low.min():g} to {high.max():g} mm", expected)
    if np.any(high - low > PIXEL_SPACING_TOLERANCE * low):
        raise SeriesRejected(
            "MIXED_PIXEL_SPACING",
            f"found pixels of {low[0]:g} × {low[1]:g} to {high[0]:g} × {high[1]:g} mm; expected one size; send one "
            "stack at a time",
        )
    return float(found[0, 0]), float(found[0, 1])


def _directions(headers: Sequence[Dataset]) -> tuple[_Array, _Array]:
    """Unit vectors along a row (towards higher columns) and along a column (towards higher rows), at right angles."""
    found = _vectors(headers, "ImageOrientationPatient", 6)
    if np.abs(found).max() > 1 + DIRECTION_TOLERANCE:
        raise _missing(f"a direction cosine of {np.abs(found).max():g}", "cosines of -1 to 1")
    spread = float(np.ptp(found, axis=0).max())
    if spread > DIRECTION_TOLERANCE:
        raise SeriesRejected(
            "MIXED_ORIENTATION",
            f"found direction cosines that differ by up to {spread:.3g} between slices; expected one orientation; send "
            "one stack at a time",
        )
    row, column = found[0, :3], found[0, 3:]
    lengths, cosine = np.linalg.norm([row, column], axis=1), float(row @ column)
    if np.any(np.abs(lengths - 1) > DIRECTION_TOLERANCE) or abs(cosine) > DIRECTION_TOLERANCE:
        what = f"vectors of length {lengths[0]:.4g} and {lengths[1]:.4g} with cosine {cosine:.3g}"
        raise _missing(f"an ImageOrientationPatient of {what}", "unit vectors at right angles")
    row = row / lengths[0]
    column = column - (column @ row) * row
    return row, column / np.linalg.norm(column)


def direction_findings(directions: _Array) -> list[Finding]:
    """Of row, column and normal, (3, 3): how far from the patient's axes, and which plane the slices are nearest to."""
    nearest = np.abs(directions).max(axis=1)
    degrees = math.degrees(math.acos(min(1.0, float(nearest.min()))))
    findings = []
    if degrees > OBLIQUE_DEGREES:
        findings.append(Finding("OBLIQUE", f"axes of the scan are up to {degrees:.1f}° off the patient's axes"))
    plane = ("sagittal", "coronal", "axial")[int(np.abs(directions[2]).argmax())]
    if plane != "axial":
        findings.append(Finding("NOT_AXIAL", f"slices are {plane}"))
    return findings


def _thickness_findings(headers: Sequence[Dataset], spacing: float) -> list[Finding]:
    found = [value[0] for header in headers if len(value := numbers_in(header, "SliceThickness")) == 1]
    if not found or min(found) <= 0 or not math.isfinite(max(found)):
        return []
    thin, thick = min(found), max(found)
    findings = []
    if thick - thin > allowed_off_grid_mm(spacing):
        findings.append(Finding("MIXED_THICKNESS", f"slices are {thin:g} to {thick:g} mm thick"))
    said = f"slices are {thick:g} mm thick and {spacing:.4g} mm apart"
    if thick > spacing + allowed_off_grid_mm(spacing):
        findings.append(Finding("OVERLAPPING_SLICES", said))
    if thick < spacing - allowed_off_grid_mm(spacing):
        findings.append(Finding("GAPS_BETWEEN_SLICES", f"{said}: what lies between was not scanned"))
    return findings


def _missing(found: str, expected: str) -> SeriesRejected:
    return SeriesRejected("MISSING_GEOMETRY", f"found {found}; expected {expected}; get the series from its archive")
