"""A likelihood of local statistics: whether blocks of the reconstruction have the right HU distribution and edges.

The reconstruction that fits voxels best is smooth: it loses bone, vessels and the lung's texture, and with them what
the latents should carry. Means of these statistics over blocks do not depend on where in the block a structure is. It
is a learned similarity in the sense of Larsen et al. 2016 (arXiv:1512.09300), with fixed instead of learned features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

_SMALLEST_ERROR = 1e-8


def local_statistics(windows: Tensor, block: int, bins: Sequence[float]) -> Tensor:
    """Return means over blocks of the occupancy of each HU bin, and of the gradient's magnitude.

    Args:
        windows: (n, 1, d, h, w) in [0, 1]; a value outside counts for the outermost bin.
        block: edge of a block in voxels; a shorter axis is one block. A remainder at the end is not counted.
        bins: centres of the bins, ascending. A voxel between two centres counts for both, by its distance: the
            occupancies of a block add up to 1 and are differentiable.

    Returns:
        (n, bins + 1, d // block, h // block, w // block). The last channel is the gradient's magnitude from forward
        differences, in the [0, 1] range per voxel.
    """
    size = [min(block, axis) for axis in windows.shape[2:]]

    def block_mean(values: Tensor) -> Tensor:
        return functional.avg_pool3d(values, size)

    above = [block_mean(((windows - low) * (1 / (high - low))).clamp(0, 1)) for low, high in pairwise(bins)]
    ones = torch.ones_like(above[0])
    passed = torch.cat([ones, *above, torch.zeros_like(ones)], dim=1)
    return torch.cat([passed[:, :-1] - passed[:, 1:], block_mean(gradient_magnitude(windows))], dim=1)


def gradient_magnitude(windows: Tensor) -> Tensor:
    """Return the gradient's magnitude, (n, 1, d, h, w), per voxel, from forward differences; 0 at an axis' last voxel.

    It is the root of the squares plus 1e-6, minus 1e-3, so that it has a gradient where values are constant.
    """
    squares = torch.zeros_like(windows)
    for axis in (2, 3, 4):
        length = windows.shape[axis] - 1
        step = (windows.narrow(axis, 1, length) - windows.narrow(axis, 0, length)).square()
        squares = squares + functional.pad(step, [0, 0] * (4 - axis) + [0, 1])
    return (squares + 1e-6).sqrt() - 1e-3


def statistics_error(reconstruction: Tensor, target: Tensor, block: int, bins: Sequence[float]) -> Tensor:
    """Return (n, bins + 1): mean over a window's blocks of the squared difference of each statistic."""
    with torch.no_grad():
        wanted = local_statistics(target, block, bins)
    return (local_statistics(reconstruction, block, bins) - wanted).square().flatten(2).mean(2)


def statistics_nll(error: Tensor) -> Tensor:
    """Return the negative log-likelihood per value, mean over statistics, from `statistics_error` (n, statistics).

    Each statistic has a Gaussian whose standard deviation fits the batch best: rare bone counts as much as air.
    """
    variance = error.mean(0).clamp_min(_SMALLEST_ERROR)
    return 0.5 * (variance.log() + error.mean(0) / variance + math.log(2 * math.pi)).mean()
