"""Where slices lie in the patient, according to their headers: read once, to divide a series and to stack it.

Of the Image Plane module (PS3.3 C.7.6.2) only Image Position, Image Orientation, Pixel Spacing and the matrix are used.
InstanceNumber, SliceLocation, SpacingBetweenSlices and GantryDetectorTilt may be missing or wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from operators.dicom.values import numbers_in
from operators.errors import SeriesRejected
from operators.types import Millimetres, Shape

DIRECTION_TOLERANCE: Final = 1e-3
"""Tolerance of a direction cosine, length and right angle: over 250 mm, half a CT field, it moves a voxel 0.25 mm."""

PIXEL_SPACING_TOLERANCE: Final = 1e-4
"""Relative tolerance between slices: over a field of 500 mm it moves a voxel by 0.05 mm."""

SPACING_RANGE_MM: Final = (0.01, 100.0)
"""Plausible range of pixel and slice distances: a number outside it is not a length in mm."""

POSITION_LIMIT_MM: Final = 1e5
"""Largest plausible coordinate: a scanner's table is not 100 m long."""

MAX_EXTENT_MM: Final = 3000.0
"""Largest extent of a scan along each axis: tables move 2 m. A few small slices 100 mm apart would need gigabytes."""

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Planes:
    """Planes of n slices, in the order of their headers.

    Attributes:
        positions_mm: float64 (n, 3), centre of the first voxel in LPS mm.
        cosines: float64 (n, 6), direction along a row, then along a column.
        pixel_spacing_mm: float64 (n, 2), between rows and between columns (PS3.3 10.7.1.3).
        matrix: float64 (n, 2), rows and columns, as in the header.
        thickness_mm: float64 (n,), NaN where the header has none.
    """

    positions_mm: _Array
    cosines: _Array
    pixel_spacing_mm: _Array
    matrix: _Array
    thickness_mm: _Array

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.positions_mm)

    def take(self, indices: Sequence[int]) -> Planes:
        """Return the planes of some of the slices."""
        at = list(indices)
        return Planes(
            self.positions_mm[at], self.cosines[at], self.pixel_spacing_mm[at], self.matrix[at], self.thickness_mm[at]
        )

    def heights_mm(self) -> _Array:
        """Return the height of each slice along the normal of the first, float64 (n,), in mm."""
        return self.positions_mm @ np.cross(self.cosines[0, :3], self.cosines[0, 3:])


def read_planes(headers: Sequence[Dataset]) -> Planes:
    """Read the plane of each slice.

    Raises:
        SeriesRejected: `MISSING_GEOMETRY`: the position of a slice is missing or impossible.
    """
    positions = _vectors(headers, "ImagePositionPatient", 3)
    if np.abs(positions).max() > POSITION_LIMIT_MM:
        raise missing_geometry(f"an ImagePositionPatient of {np.abs(positions).max():g} mm", "a place in a scanner")
    matrix = np.hstack([_vectors(headers, "Rows", 1), _vectors(headers, "Columns", 1)])
    spacing = _vectors(headers, "PixelSpacing", 2)
    low, high = float(spacing.min()), float(spacing.max())
    if low < SPACING_RANGE_MM[0] or high > SPACING_RANGE_MM[1]:
        expected = f"{SPACING_RANGE_MM[0]:g} to {SPACING_RANGE_MM[1]:g} mm"
        raise missing_geometry(f"a PixelSpacing of {low:g} to {high:g} mm", expected)
    cosines = _vectors(headers, "ImageOrientationPatient", 6)
    if np.abs(cosines).max() > 1 + DIRECTION_TOLERANCE:
        raise missing_geometry(f"a direction cosine of {np.abs(cosines).max():g}", "cosines of -1 to 1")
    thickness = [
        found[0] if len(found := numbers_in(header, "SliceThickness")) == 1 else math.nan for header in headers
    ]
    return Planes(positions, cosines, spacing, matrix, np.array(thickness))


def one_matrix(planes: Planes) -> tuple[int, int]:
    """Return (rows, columns), which all slices share.

    Raises:
        SeriesRejected: `MIXED_MATRIX`.
    """
    found = sorted({(int(rows), int(columns)) for rows, columns in planes.matrix.tolist()})
    if len(found) > 1:
        listed = ", ".join(f"{rows} × {columns}" for rows, columns in found[:3])
        raise SeriesRejected("MIXED_MATRIX", f"found slices of {listed}; expected one size; send one stack at a time")
    return found[0]


def one_pixel_spacing(planes: Planes) -> tuple[float, float]:
    """Return the distance (between rows, between columns) in mm, which all slices share.

    Raises:
        SeriesRejected: `MIXED_PIXEL_SPACING`.
    """
    found = planes.pixel_spacing_mm
    low, high = found.min(axis=0), found.max(axis=0)
    if np.any(high - low > PIXEL_SPACING_TOLERANCE * low):
        raise SeriesRejected(
            "MIXED_PIXEL_SPACING",
            f"found pixels of {low[0]:g} × {low[1]:g} to {high[0]:g} × {high[1]:g} mm; expected one size; send one "
            "stack at a time",
        )
    return float(found[0, 0]), float(found[0, 1])


def one_orientation(planes: Planes) -> tuple[_Array, _Array]:
    """Return unit vectors along a row (to higher columns) and along a column (to higher rows), at right angles.

    Raises:
        SeriesRejected: `MIXED_ORIENTATION`; or `MISSING_GEOMETRY` where the vectors are not at right angles.
    """
    found = planes.cosines
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
        raise missing_geometry(f"an ImageOrientationPatient of {what}", "unit vectors at right angles")
    row = row / lengths[0]
    column = column - (column @ row) * row
    return row, column / np.linalg.norm(column)


def check_extent(shape: Shape, spacing_mm: Millimetres) -> None:
    """Check that a grid is no larger than a scanner's range.

    Raises:
        SeriesRejected: `MISSING_GEOMETRY`.
    """
    extent_mm = max(size * step_mm for size, step_mm in zip(shape, spacing_mm, strict=True))
    if extent_mm > MAX_EXTENT_MM:
        raise missing_geometry(f"a scan of {extent_mm:.0f} mm", f"at most {MAX_EXTENT_MM:g} mm along each axis")


def missing_geometry(found: str, expected: str) -> SeriesRejected:
    """Return the error for a slice whose position is missing or impossible."""
    return SeriesRejected("MISSING_GEOMETRY", f"found {found}; expected {expected}; get the series from its archive")


def _vectors(headers: Sequence[Dataset], keyword: str, length: int) -> _Array:
    """Return the finite numbers of an element, float64 (slices, length)."""
    found = [numbers_in(header, keyword) for header in headers]
    bad = sum(len(vector) != length or not all(map(math.isfinite, vector)) for vector in found)
    if bad:
        raise missing_geometry(f"no usable {keyword} in {bad} of {len(found)} slices", f"{length} numbers in each")
    return np.array(found)
