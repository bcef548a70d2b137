"""How far a reconstruction is from its original: in HU by tissue, PSNR, SSIM."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.statistics.tissues import TISSUES_HU

Floats = NDArray[np.float64]

SSIM_VOXELS = 7


def absolute_errors(original_hu: NDArray[Any], made_hu: NDArray[Any]) -> dict[str, Floats]:
    """Return each window's mean absolute error in HU, over `all` voxels and over those of each tissue.

    Args:
        original_hu: (n, d, h, w).
        made_hu: likewise, reconstructed.

    Returns:
            name → float64 (n,); NaN where a window has no voxel of that tissue.
    """
    error = np.abs(made_hu.astype(np.float64) - original_hu)
    found = {"all": error.mean(axis=(1, 2, 3))}
    for name, (low, high) in TISSUES_HU.items():
        inside = (original_hu >= low) & (original_hu < high)
        count = inside.sum(axis=(1, 2, 3))
        total = np.where(inside, error, 0).sum(axis=(1, 2, 3))
        found[name] = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return found


def psnr(original: NDArray[Any], made: NDArray[Any], data_range: float) -> Floats:
    """Return each window's peak signal-to-noise ratio in dB, 20·log10(range / RMSE): float64 (n,) of (n, d, h, w)."""
    rmse = np.sqrt(np.square(made.astype(np.float64) - original).mean(axis=(1, 2, 3)))
    with np.errstate(divide="ignore"):
        return np.asarray(20 * np.log10(data_range / rmse), np.float64)


def ssim(original: NDArray[Any], made: NDArray[Any], data_range: float) -> Floats:
    """Return the structural similarity of each window (Wang et al. 2004, doi 10.1109/TIP.2003.819861), in 3D.

    Means, variances and covariance are over cubes of 7 voxels with equal weights; K1 = 0.01, K2 = 0.03; the result is
    the mean over all cubes inside the window. Where a window has fewer than 7 voxels along an axis, so has the cube.
    `monai.metrics` gives the same to 3e-6, takes five times as long, and raises on such a window.

    Returns:
        float64 (n,) of (n, d, h, w).
    """
    return np.array(
        [
            _ssim(window.astype(np.float64), rebuilt.astype(np.float64), data_range)
            for window, rebuilt in zip(original, made, strict=True)
        ]
    )


def _ssim(x: Floats, y: Floats, data_range: float) -> float:
    size = [min(SSIM_VOXELS, count) for count in x.shape]
    inner = tuple(slice(cube // 2, cube // 2 + count - cube + 1) for cube, count in zip(size, x.shape, strict=True))

    def mean(values: Floats) -> Floats:
        return np.asarray(ndimage.uniform_filter(values, size)[inner], np.float64)

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    similar = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float(similar.mean())
