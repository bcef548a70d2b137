"""The middle planes of a volume as a person views them, with the encoder's windows in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from operators.geometry.windows import patient_axes
from operators.types import Volume, Windows

PlaneName = Literal["axial", "coronal", "sagittal"]

PLANES: dict[PlaneName, tuple[int, int]] = {"axial": (1, 2), "coronal": (0, 2), "sagittal": (0, 1)}
"""Plane → the patient axes (z, y or x) that run down and across it."""

EDGES: dict[PlaneName, tuple[str, str, str, str]] = {
    "axial": ("R", "L", "A", "P"),
    "coronal": ("R", "L", "H", "F"),
    "sagittal": ("A", "P", "H", "F"),
}
"""Letters at the left, right, upper and lower edge (PS3.3 C.7.6.1.1.1), as radiologists hang their images."""


@dataclass(frozen=True, slots=True)
class PlaneView:
    """One middle plane, ready to draw; coordinates are in mm from its upper left corner.

    Attributes:
        hu: int16 (rows, columns).
        size_mm: (height, width).
        windows_mm: float64 (n, 4): left, top, right and bottom of each window.
    """

    name: PlaneName
    hu: NDArray[np.int16]
    size_mm: tuple[float, float]
    windows_mm: NDArray[np.float64]


def middle_planes(windows: Windows) -> tuple[PlaneView, ...]:
    """Return the axial, coronal and sagittal middle plane; the slices are decoded again, one at a time.

    For an oblique volume these are the nearest of its own planes.

    Raises:
        SeriesRejected, SeriesFailed: from reading the slices.
    """
    volume = windows.volume
    axes = patient_axes(volume.affine_lps_mm)
    sections = _sections(volume)
    boxes = _boxes(windows)
    views = []
    for name, (down, across) in PLANES.items():
        (cut,) = {0, 1, 2} - {down, across}
        hu = sections[axes[cut][0]]
        if axes[down][0] > axes[across][0]:
            hu = hu.T
        # From head to feet where the patient axis points up; else in the direction of the axis.
        turned = [axes[down][1] is not (down == 0), axes[across][1]]
        hu = np.flip(hu, tuple(k for k in (0, 1) if turned[k]))
        at = [axes[down][0], axes[across][0]]
        size = [volume.shape[axis] * float(np.linalg.norm(volume.affine_lps_mm[:3, axis])) for axis in at]
        spans = [size[k] - boxes[:, at[k], ::-1] if turned[k] else boxes[:, at[k]] for k in (0, 1)]
        corners = np.stack([spans[1][:, 0], spans[0][:, 0], spans[1][:, 1], spans[0][:, 1]], axis=1)
        views.append(PlaneView(name, hu, (size[0], size[1]), corners))
    return tuple(views)


def _sections(volume: Volume) -> list[NDArray[np.int16]]:
    """Return the middle section across each axis of the volume, without holding all slices at once."""
    depth, height, width = volume.shape
    sections = [np.empty(shape, np.int16) for shape in ((height, width), (depth, width), (depth, height))]
    for d, ready in enumerate(volume.slices()):
        if d == depth // 2:
            sections[0][:] = ready.hu
        sections[1][d] = ready.hu[height // 2]
        sections[2][d] = ready.hu[:, width // 2]
    return sections


def _boxes(windows: Windows) -> NDArray[np.float64]:
    """Return each window's extent along each axis of the volume, float64 (n, 3, 2), in mm from the volume's corner."""
    affine = windows.volume.affine_lps_mm
    step_mm = np.linalg.norm(affine[:3, :3], axis=0)
    ends = np.array([[-0.5] * 3, np.array(windows.voxels.shape[2:]) - 0.5])
    corners = np.concatenate([ends, np.ones((2, 1))], axis=1)
    to_index = np.linalg.inv(affine) @ windows.affines_lps_mm
    index = (to_index @ corners.T)[:, :3] + 0.5
    return np.sort(index * step_mm[:, None], axis=2)
