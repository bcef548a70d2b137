"""The middle planes hang as a radiologist hangs them, whatever way the slices were stored."""

from __future__ import annotations

import numpy as np
import pytest

from models.spec import Preprocessing
from operators.preprocess import preprocess
from operators.results.card_planes import middle_planes
from operators.types import HuSlice, Volume
from tests.support.records import made_series

SIDES, SPACING = (5, 7, 9), (6.0, 4.0, 2.0)
MARKS = {"right": -100, "left": 100, "front": -200, "back": 200, "feet": -300, "head": 300}
AXIAL = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])
ORIENTATIONS = {
    "axial": AXIAL,
    "from head to feet, rows from right": AXIAL * [-1, 1, -1],
    "coronal": np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]]),
    "sagittal": np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]),
}


def volume_with_marks(directions: np.ndarray) -> Volume:
    """Zero but for the middle of each face, which says what it is; `directions` has a column per axis."""
    steps = directions * np.array(SPACING)
    affine = np.eye(4)
    affine[:3, :3] = steps
    affine[:3, 3] = -steps @ ((np.array(SIDES) - 1) / 2)
    voxels = np.zeros(SIDES, np.int16)
    for row, ends in enumerate((("right", "left"), ("front", "back"), ("feet", "head"))):
        axis = int(np.abs(directions[row]).argmax())
        low, high = ends if directions[row, axis] > 0 else ends[::-1]
        place = [side // 2 for side in SIDES]
        for index, name in ((0, low), (SIDES[axis] - 1, high)):
            place[axis] = index
            voxels[tuple(place)] = MARKS[name]
    return Volume(made_series(), SIDES, affine, SPACING, (), lambda d: HuSlice(voxels[d]))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_planes_hang_the_same_way(orientation):
    volume = volume_with_marks(ORIENTATIONS[orientation])
    windows = preprocess(volume, Preprocessing("window", (4, 4, 4), (8.0, 8.0, 8.0), (-1000.0, 1000.0)))
    edges = {view.name: edges_of(view.hu) for view in middle_planes(windows)}
    assert edges == {
        "axial": ("right", "left", "front", "back"),
        "coronal": ("right", "left", "head", "feet"),
        "sagittal": ("front", "back", "head", "feet"),
    }


def edges_of(hu: np.ndarray) -> tuple[str, ...]:
    """What is marked in the middle of the left, right, upper and lower edge."""
    rows, columns = hu.shape
    found = hu[rows // 2, 0], hu[rows // 2, -1], hu[0, columns // 2], hu[-1, columns // 2]
    names = {value: name for name, value in MARKS.items()}
    return tuple(names.get(int(value), "nothing") for value in found)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_window_is_drawn_where_it_lies(orientation):
    volume = volume_with_marks(ORIENTATIONS[orientation])
    windows = preprocess(volume, Preprocessing("window", (2, 3, 4), (4.0, 5.0, 6.0), (-1000.0, 1000.0), overlap=0.5))
    size = {axis: side * step for (axis, side, step) in zip(volume_axes(volume), SIDES, SPACING, strict=True)}
    for view in middle_planes(windows):
        down, across = {"axial": "yx", "coronal": "zx", "sagittal": "zy"}[view.name]
        assert view.size_mm == pytest.approx((size[down], size[across]))
        assert len(view.windows_mm) == len(windows.voxels)
        for (left, top, right, bottom), affine in zip(view.windows_mm, windows.affines_lps_mm, strict=True):
            ends = {axis: ends_mm(affine, row, axis, size) for row, axis in enumerate("xyz")}
            assert (left, right) == pytest.approx(ends[across])
            assert (top, bottom) == pytest.approx(ends[down])


def volume_axes(volume: Volume) -> list[str]:
    return ["xyz"[int(np.abs(volume.affine_lps_mm[:3, k]).argmax())] for k in range(3)]


def ends_mm(affine: np.ndarray, row: int, axis: str, size: dict[str, float]) -> tuple[float, float]:
    """From where to where a window of 2 × 3 × 4 voxels reaches, from the upper or left edge of the picture."""
    half = {"z": (2, 4.0), "y": (3, 5.0), "x": (4, 6.0)}[axis]
    centre = float((affine @ [0.5, 1.0, 1.5, 1.0])[row])
    low, high = centre - half[0] * half[1] / 2, centre + half[0] * half[1] / 2
    return (
        (size[axis] / 2 - high, size[axis] / 2 - low) if axis == "z" else (size[axis] / 2 + low, size[axis] / 2 + high)
    )
