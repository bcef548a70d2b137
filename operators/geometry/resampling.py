"""Slices of the regular grid from the stored ones: shifted in their plane, or mixed from two neighbours.

A slice that a tilted gantry shifted is moved back by linear interpolation. A voxel partly outside the stored slice has
the value of the nearest voxel inside; one entirely outside is air, as in `preprocess`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from operators.dicom.pixel_format import AIR_HU
from operators.geometry.repair import Sources
from operators.types import HuSlice


@dataclass(frozen=True, slots=True)
class Resampling:
    """The stored slices that each slice of a regular grid is made of.

    Attributes:
        sources: for each d, (stored slice, weight): one, or two neighbours whose weights add up to 1; stored slices are
            counted along their normal.
        offsets: for each stored slice, the offset (rows, columns) ≥ 0 of its first voxel from the first of the grid.
        shape: (H, W) of the grid.
    """

    sources: Sources
    offsets: tuple[tuple[float, float], ...]
    shape: tuple[int, int]


def resample_slice(read_stored: Callable[[int], HuSlice], resampling: Resampling, d: int) -> HuSlice:
    """Return slice d of the grid: int16 HU, rounded half to even, with the findings of all slices it is made of.

    Args:
        read_stored: stored slice → its HU.
        resampling: how the grid is made.
        d: index of the slice in the grid.
    """
    parts = resampling.sources[d]
    stored = [read_stored(index) for index, _ in parts]
    findings = tuple(dict.fromkeys(finding for part in stored for finding in part.findings))
    offsets = [resampling.offsets[index] for index, _ in parts]
    if len(parts) == 1 and not any(offsets[0]) and stored[0].hu.shape == resampling.shape:
        return HuSlice(stored[0].hu, findings, stored[0].histogram)
    total = np.zeros(resampling.shape, np.float32)
    for part, offset, (_, weight) in zip(stored, offsets, parts, strict=True):
        total += np.float32(weight) * shifted(part.hu, offset, resampling.shape)
    return HuSlice(np.rint(total, out=total).astype(np.int16), findings, stored[0].histogram)


def shifted(hu: NDArray[np.int16], offset: tuple[float, float], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return a slice, (H, W), shifted by `offset` (rows, columns) ≥ 0 into a plane of air of this shape: float32 HU."""
    rows, columns = (divmod(distance, 1.0) for distance in offset)
    moved = _between(hu.astype(np.float32), rows[1])
    moved = _between(moved.T, columns[1]).T
    plane = np.full(shape, AIR_HU, np.float32)
    top, left = int(rows[0]), int(columns[0])
    plane[top : top + moved.shape[0], left : left + moved.shape[1]] = moved
    return plane


def _between(plane: NDArray[np.float32], fraction: float) -> NDArray[np.float32]:
    """Return rows shifted by a fraction of a row; there is one more row, since the outermost reaches into the next."""
    if fraction == 0:
        return plane
    padded = np.concatenate([plane[:1], plane, plane[-1:]])
    moved = padded[1:] * np.float32(1 - fraction)
    moved += padded[:-1] * np.float32(fraction)
    return moved
