"""Texture of a body in a window: local standard deviation, gradient, and Haralick's co-occurrence of grey levels.

All take HU as float (d, h, w) and a mask of the same shape; nothing outside of the mask counts, except that a local
standard deviation sees the 26 neighbours of a voxel and a gradient the two along each axis, wherever they lie.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

GREY_LEVEL_HU = 25.0
"""Width of a grey level: the fixed bin size that the IBSI describes (Zwanenburg et al. 2020, arXiv:1612.07003)."""

OFFSETS = tuple((z, y, x) for z, y, x in product((-1, 0, 1), repeat=3) if (z, y, x) > (0, 0, 0))
"""The 13 directions of a 3D neighbourhood, one of each opposite pair, (z, y, x)."""


def local_sd_hu(hu: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Mean over the mask of the standard deviation in 3 × 3 × 3 voxels, edges repeated at the border of the window."""
    mean = ndimage.uniform_filter(hu, 3, mode="nearest")
    square = ndimage.uniform_filter(hu * hu, 3, mode="nearest")
    return float(np.sqrt(np.maximum(square[mask] - mean[mask] ** 2, 0)).mean(dtype=np.float64))


def gradient_hu_per_mm(
    hu: NDArray[np.float32], mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> float:
    """Mean over the mask of the gradient's length, by central differences; along an axis of one voxel it is 0."""
    steps = [(axis, step) for axis, step in enumerate(spacing_mm) if hu.shape[axis] > 1]
    squares = sum((np.gradient(hu, step, axis=axis)[mask] ** 2 for axis, step in steps), np.zeros(int(mask.sum())))
    return float(np.sqrt(squares).mean(dtype=np.float64))


def glcm_contrast(hu: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Contrast of the grey-level co-occurrence matrix: Σ p(i, j) (i - j)².

    Haralick, Shanmugam and Dinstein 1973; the IBSI's feature ACUI, levels of a fixed width, neighbours at distance 1,
    all 13 directions merged into one matrix (IBSI 3D:mrg). NaN where no two voxels of the mask are neighbours. The sum
    over pairs is the matrix' contrast without the matrix.
    """
    levels = np.floor(hu / GREY_LEVEL_HU).astype(np.int16)
    total, pairs = 0, 0
    for offset in OFFSETS:
        one, other = _shifted(offset)
        both = mask[one] & mask[other]
        difference = levels[one][both].astype(np.int64) - levels[other][both]
        total += int(difference @ difference)
        pairs += difference.size
    return total / pairs if pairs else float("nan")


def _shifted(offset: tuple[int, int, int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a voxel and its neighbour at `offset` both lie in the array."""
    one = tuple(slice(max(0, -step), -step if step > 0 else None) for step in offset)
    other = tuple(slice(max(0, step), step if step < 0 else None) for step in offset)
    return one, other
