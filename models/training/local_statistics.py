"""A likelihood of local statistics: do blocks of the reconstruction hold as much of each HU range, and as many edges?

A reconstruction that fits voxels best is smooth: bone, vessels and the lung's texture are lost in it, and with them
what the latents would have to carry. Means over blocks of these statistics do not ask where in the block a thing is.
A learned similarity in the sense of Larsen et al. 2016 (arXiv:1512.09300), with features that are given, not learned.
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
    """Means over blocks of the occupancy of each HU bin, and of the gradient's magnitude.

    Args:
        windows: (n, 1, d, h, w) in [0, 1]; a value outside counts for the outermost bin.
        block: edge of a block, voxels; on an axis that is shorter, that axis. What is left over at the end is not
            counted.
        bins: their centres, ascending. A voxel between two centres counts for both, by its distance: the occupancies
            of a block add up to 1, and are differentiable.

    Returns:
        (n, bins + 1, d // block, h // block, w // block). The last channel is the gradient's magnitude, of forward
        differences, of the [0, 1] range a voxel.
    """
    size = [min(block, axis) for axis in windows.shape[2:]]

    def block_mean(values: Tensor) -> Tensor:
        return functional.avg_pool3d(values, size)

    above = [block_mean(((windows - low) * (1 / (high - low))).clamp(0, 1)) for low, high in pairwise(bins)]
    ones = torch.ones_like(above[0])
    passed = torch.cat([ones, *above, torch.zeros_like(ones)], dim=1)
    return torch.cat([passed[:, :-1] - passed[:, 1:], block_mean(gradient_magnitude(windows))], dim=1)


def gradient_magnitude(windows: Tensor) -> Tensor:
    """(n, 1, d, h, w), a voxel, of forward differences; 0 across the last voxel of an axis.

    The root is that of the squares plus 1e-6, less 1e-3, so that it has a gradient where all is even.
    """
    squares = torch.zeros_like(windows)
    for axis in (2, 3, 4):
        length = windows.shape[axis] - 1
        step = (windows.narrow(axis, 1, length) - windows.narrow(axis, 0, length)).square()
        squares = squares + functional.pad(step, [0, 0] * (4 - axis) + [0, 1])
    return (squares + 1e-6).sqrt() - 1e-3


def statistics_error(reconstruction: Tensor, target: Tensor, block: int, bins: Sequence[float]) -> Tensor:
    """(n, bins + 1): mean over a window's blocks of the squared difference of each statistic."""
    with torch.no_grad():
        wanted = local_statistics(target, block, bins)
    return (local_statistics(reconstruction, block, bins) - wanted).square().flatten(2).mean(2)


def statistics_nll(error: Tensor) -> Tensor:
    """Negative log-likelihood of one value, mean over the statistics, from `statistics_error` (n, statistics).

    A Gaussian for each statistic, of the standard deviation that fits the batch best: rare bone counts as much as air.
    """
    variance = error.mean(0).clamp_min(_SMALLEST_ERROR)
    return 0.5 * (variance.log() + error.mean(0) / variance + math.log(2 * math.pi)).mean()
