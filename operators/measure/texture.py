"""Texture of a body in a window: local standard deviation, gradient, and Haralick's co-occurrence of grey levels.

All take HU as float (d, h, w) and a mask of the same shape. Nothing outside the mask counts, except that a local
standard deviation sees the 26 neighbours of a voxel and a gradient the two along each axis, wherever they lie.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

GREY_LEVEL_HU = 25.0
"""Width of a grey level in HU: the fixed bin size of the IBSI (Zwanenburg et al. 2020, arXiv:1612.07003)."""

_Number = TypeVar("_Number", bound=np.generic)


def local_sd_hu(hu: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Return the mean over the mask of the SD in 3 × 3 × 3 voxels, in HU; the window's border repeats its edge."""
    total, squares = (box_sum(values, "edge")[mask] for values in (hu, hu * hu))
    variance = squares / np.float32(27) - np.square(total / np.float32(27))
    return float(np.sqrt(np.maximum(variance, 0)).mean(dtype=np.float64))


def gradient_hu_per_mm(
    hu: NDArray[np.float32], mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> float:
    """Return the mean over the mask of the gradient's length, by central differences; 0 along an axis of one voxel."""
    squares = np.zeros_like(hu)
    for axis, step in enumerate(spacing_mm):
        if hu.shape[axis] > 1:
            along = _central_difference(np.moveaxis(hu, axis, 0), step)
            squares += np.moveaxis(np.square(along, out=along), 0, axis)
    return float(np.sqrt(squares[mask]).mean(dtype=np.float64))


def _central_difference(hu: NDArray[np.float32], step_mm: float) -> NDArray[np.float32]:
    """Return differences along the first axis; at both ends, the difference to the only neighbour."""
    difference = np.empty_like(hu)
    np.subtract(hu[2:], hu[:-2], out=difference[1:-1])
    difference[1:-1] *= np.float32(0.5 / step_mm)
    difference[0] = (hu[1] - hu[0]) / np.float32(step_mm)
    difference[-1] = (hu[-1] - hu[-2]) / np.float32(step_mm)
    return difference


def glcm_contrast(hu: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Return the contrast of the grey-level co-occurrence matrix: Σ p(i, j) (i - j)².

    Haralick, Shanmugam and Dinstein 1973; the IBSI's feature ACUI, with levels of fixed width, neighbours at distance 1
    and all 13 directions merged into one matrix (IBSI 3D:mrg). NaN where no two voxels of the mask are neighbours.

    It is computed as a sum over pairs, without the matrix, and needs only the sum N f of a function f over the 26
    neighbours of each voxel: with the levels l inside the mask m, there are ½ Σ m N m pairs, and the squared
    differences add up to Σ (l² N m - l N l). All are whole numbers.
    """
    levels = np.floor(hu / GREY_LEVEL_HU)
    widest = max(-float(levels.min(initial=0)), float(levels.max(initial=1)))
    kind: type[np.signedinteger[Any]] = np.int16 if 27 * widest <= np.iinfo(np.int16).max else np.int32
    inside = mask.astype(kind)
    inner = levels.astype(kind) * inside
    neighbours, beside = box_sum(inside, "zero") - inside, box_sum(inner, "zero") - inner
    twice_pairs = _dot(inside, neighbours)
    squared = _dot(np.square(inner, dtype=np.int32), neighbours) - _dot(inner, beside)
    return 2 * squared / twice_pairs if twice_pairs else float("nan")


def _dot(first: NDArray[Any], second: NDArray[Any]) -> int:
    return int(np.einsum("i,i", first.ravel(), second.ravel(), dtype=np.int64))


def box_sum(values: NDArray[_Number], beyond: Literal["zero", "edge"]) -> NDArray[_Number]:
    """Return the sum over the 3 × 3 × 3 voxels around each voxel.

    Args:
        values: array (d, h, w).
        beyond: what lies outside the array: nothing, or its edge repeated.
    """
    found: NDArray[_Number] = np.pad(values, 1, mode="edge" if beyond == "edge" else "constant")
    for axis in range(3):
        low, middle, high = (_part(found, axis, start) for start in range(3))
        found = np.add(low, middle)
        np.add(found, high, out=found)
    return found


def _part(values: NDArray[_Number], axis: int, start: int) -> NDArray[_Number]:
    """Return all but two places along an axis."""
    return values[(*[slice(None)] * axis, slice(start, values.shape[axis] - 2 + start))]
