"""Where an SR draws in the source images: the windows' outline on the middle slice, and an anchor for the text.

A viewer that lists measurements beside an image needs coordinates, although the numbers are about the whole series.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from operators.dicom.values import is_valid_uid
from operators.instance import Instance
from operators.sr.content import Graphic, ImageReference
from operators.types import Windows

_Array = NDArray[np.float64]

TEXT_SIZE = (0.5, 0.14)
"""Width and height of a viewer's text of five lines, as fractions of the longer side of the image."""

TEXT_OFFSET = (0.1, 0.05)
"""Offset of the text's upper left corner from the anchor, in fractions of the image's width and height (OHIF 3.13)."""

DECIMALS = 2
"""Rounding of a coordinate in pixels, so that rounding errors of an affine do not change the bytes."""


@dataclass(frozen=True, slots=True)
class Place:
    """What an SR draws.

    Attributes:
        image: the middle slice, or the middle frame.
        outline: closed POLYLINE, the intersection of the windows' box with the slice, clipped to the image.
        anchor: POINT at which the text does not cross the outline.
    """

    image: ImageReference
    outline: Graphic
    anchor: Graphic


def place_of(windows: Windows) -> Place | None:
    """Return the place of the windows in the source images; None where no image can be referenced or meets them."""
    volume = windows.volume
    middle = (volume.affine_lps_mm @ [*((n - 1) / 2 for n in volume.shape), 1.0])[:3]
    along = volume.affine_lps_mm[:3, 0] / np.linalg.norm(volume.affine_lps_mm[:3, 0])
    planes = [
        (abs(float(along @ (middle - plane.centre))), instance.sop_instance_uid, frame or 0, plane)
        for instance in volume.series.instances
        if (plane := _plane(instance.header)) is not None and _referable(instance)
        for frame in [_frame(instance)]
    ]
    if not planes:
        return None
    _, uid, frame, plane = min(planes, key=lambda candidate: (round(candidate[0], 6), *candidate[1:3]))
    outline = _outline(windows, plane)
    if outline is None:
        return None
    image = ImageReference(plane.sop_class_uid, uid, frame or None)
    closed = np.vstack([outline, outline[:1]]).astype(np.float32)
    anchor = _anchor(outline, plane).astype(np.float32)
    return Place(image, Graphic("POLYLINE", closed), Graphic("POINT", anchor[None]))


@dataclass(frozen=True, slots=True)
class _Plane:
    """The plane of an image in the patient (PS3.3 C.7.6.2).

    Attributes:
        position: float64 (3,), LPS mm of the centre of the first pixel.
        across, down: float64 (3,), LPS mm from one column or row to the next.
        size: numbers of columns and rows.
    """

    sop_class_uid: str
    position: _Array
    across: _Array
    down: _Array
    size: tuple[int, int]

    @property
    def centre(self) -> _Array:
        """Centre of the image, float64 (3,), in LPS mm."""
        columns, rows = self.size
        return self.position + self.across * ((columns - 1) / 2) + self.down * ((rows - 1) / 2)


def _plane(header: Dataset) -> _Plane | None:
    """Return the plane of an image; None where the header does not state it."""
    keywords = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Columns", "Rows", "SOPClassUID")
    position, orientation, spacing, columns, rows, sop_class = (header.get(keyword) for keyword in keywords)
    if position is None or orientation is None or spacing is None or not columns or not rows:
        return None
    directions = np.array(orientation, np.float64).reshape(2, 3)
    across, down = directions[0] * float(spacing[1]), directions[1] * float(spacing[0])
    return _Plane(str(sop_class), np.array(position, np.float64), across, down, (int(columns), int(rows)))


def _referable(instance: Instance) -> bool:
    uids = instance.sop_instance_uid, str(instance.header.get("SOPClassUID", ""))
    return all(map(is_valid_uid, uids))


def _frame(instance: Instance) -> int | None:
    """Return the Referenced Frame Number, from 1; None for a single-frame image."""
    return None if instance.frame is None else instance.frame.index + 1


def _outline(windows: Windows, plane: _Plane) -> _Array | None:
    """Return the image's rectangle clipped by the six faces of the box of all windows, float64 (n, 2); None if empty.

    The windows follow one another along their first axis, so the box extends from the first to the last.
    """
    to_index = np.linalg.inv(windows.affines_lps_mm[0])
    depth_offset = (to_index @ windows.affines_lps_mm[-1])[0, 3]
    low = np.full(3, -0.5)
    high = np.array(windows.voxels.shape[2:]) - 0.5 + [max(0.0, depth_offset), 0.0, 0.0]
    low[0] += min(0.0, depth_offset)
    corner = plane.position - (plane.across + plane.down) / 2
    origin = to_index[:3, :3] @ corner + to_index[:3, 3]
    slopes = to_index[:3, :3] @ np.stack([plane.across, plane.down], axis=1)
    columns, rows = plane.size
    outline = np.array([(0, 0), (columns, 0), (columns, rows), (0, rows)], np.float64)
    for axis in range(3):
        for sign, bound in ((1.0, low[axis]), (-1.0, high[axis])):
            outline = _clipped(outline, sign * (origin[axis] + outline @ slopes[axis] - bound))
            if len(outline) < 3:
                return None
    return np.round(outline, DECIMALS) + 0.0


def _clipped(polygon: _Array, heights: _Array) -> _Array:
    """Return the part of a convex polygon that is not below 0 (Sutherland and Hodgman)."""

    def kept() -> Iterator[_Array]:
        for i, (point, height) in enumerate(zip(polygon, heights, strict=True)):
            before, lower = polygon[i - 1], heights[i - 1]
            if (height >= 0) != (lower >= 0):
                yield before + (point - before) * (lower / (lower - height))
            if height >= 0:
                yield point

    return np.array(list(kept()), np.float64).reshape(-1, 2)


def _anchor(outline: _Array, plane: _Plane) -> _Array:
    """Return the first place where the text lies within the image, and entirely inside or outside the outline.

    It tries the outline's upper left, upper right and lower left corners (with the text beside or below it), then the
    image's own; where nothing fits, the text covers the outline's corner.
    """
    size = np.array(plane.size, np.float64)
    pixel_mm = np.array([np.linalg.norm(plane.across), np.linalg.norm(plane.down)])
    text = np.array(TEXT_SIZE) * (size * pixel_mm).max() / pixel_mm
    low, high = outline.min(axis=0), outline.max(axis=0)
    for corner in (low, [high[0], low[1]], [low[0], high[1]], [0.0, 0.0], [high[0], 0.0], [0.0, high[1]]):
        first = np.array(corner) + np.array(TEXT_OFFSET) * size
        last = first + text
        inside = bool((first >= low).all() and (last <= high).all())
        outside = bool((last <= low).any() or (first >= high).any())
        if (last <= size).all() and (inside or outside):
            return np.array(np.round(corner, DECIMALS), np.float64)
    return np.array(np.round(low, DECIMALS), np.float64)
