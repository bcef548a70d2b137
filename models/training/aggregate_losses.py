"""Losses on all codes together: the shape of the prior, and agreement of views on each of its axes.

Each takes the codes of one batch, which should be many times the number of latents: the covariance of eight codes has
rank seven. Codes kept from earlier steps do not replace them: eight steps old, they come from other weights, and the
terms then had no effect in trials. Units are nats, or none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.statistics.cropped import PLAIN_AIR, TILE_BELOW

_LEAST_VARIANCE = 1e-4
_SHRINKAGE = 0.05
_SMALLEST_RATIO = 1e-3


def aggregate_distance(mu: Tensor) -> Tensor:
    """Return how far mean, deviations and covariances of mu (n, k) are from the prior's 0, 1 and 0, a dimension.

    (Σᵢ mᵢ² + Σᵢ (1 - sᵢ)² + Σ_{i≠j} C_ij²) / k: the variance and covariance terms of VICReg (Bardes et al. 2022,
    arXiv:2105.04906), two-sided. The deviations, not the variances as in DIP-VAE-I (Kumar et al. 2018,
    arXiv:1711.00848), because these have no gradient left where a dimension has nearly collapsed. Nor does the
    logarithm of the determinant with a floor that keeps it finite: with it half of 32 dimensions stayed at the floor.
    It is of mu alone: with the posterior's variance in C, a posterior that is the prior pleases it, however alike the
    dimensions of mu are.
    """
    mean, k = mu.mean(0), mu.shape[1]
    centred = mu - mean
    covariance = centred.T @ centred / len(mu)
    variance = covariance.diagonal()
    apart = covariance.square().sum() - variance.square().sum()
    distance: Tensor = (mean.square().sum() + (1 - (variance + _LEAST_VARIANCE).sqrt()).square().sum() + apart) / k
    return distance


def within_groups(mu: Tensor, group: Tensor) -> Tensor:
    """Return the covariance (k, k) of codes (n, k) about the mean of their group (n, 1), shrunk towards its diagonal.

    A group of one code contributes nothing.
    """
    centred = torch.zeros_like(mu)
    freedom = 0
    for value in torch.unique(group):
        rows = (group == value).squeeze(1)
        centred[rows] = mu[rows] - mu[rows].mean(0)
        freedom += int(rows.sum()) - 1
    covariance = centred.T @ centred / max(freedom, 1)
    shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * torch.diag(covariance.diagonal())
    return shrunk + 1e-6 * torch.eye(mu.shape[1], device=mu.device)


def whitened_pairs(mu: Tensor, other: Tensor, covariance: Tensor) -> Tensor:
    """Return how far two views of a window are apart on the axes of a covariance: half the log of the mean ratio.

    The squared difference over the variance, mean over windows and over the whitened axes, is twice (1 - ICC) in the
    mean. No axis counts more than another, and one that two dimensions share counts once: nothing is gained by copying
    the axis that repeats best. The covariance (k, k) is that of the windows, within their group. It is differentiated
    too, so that nothing is gained by a smaller scale either: with a fixed one, all dimensions shrank to nothing.
    """
    root = torch.linalg.cholesky(covariance)
    apart = torch.linalg.solve_triangular(root, (mu - other).T, upper=False)
    ratio: Tensor = apart.square().mean()
    return 0.5 * (ratio + _SMALLEST_RATIO).log()


def tile_group(target: Tensor) -> Tensor:
    """Return (n, 1): 1 for a window (n, 1, d, h, w) whose voxels above air fill less than 0.6 of its plane, else 0.

    `models.statistics.cropped.cropped_tiles` uses the same criterion.
    """
    held = (target[:, 0] > PLAIN_AIR).any(1)
    rows, columns = held.any(2).float(), held.any(1).float()
    return (_extent(rows) * _extent(columns) < TILE_BELOW).to(target.dtype)[:, None]


def _extent(held: Tensor) -> Tensor:
    """Return the extent from the first to the last true value of (n, m), as a fraction of m."""
    places = torch.arange(1, held.shape[1] + 1, device=held.device) * held
    last = places.amax(1)
    first = torch.where(held > 0, places, torch.full_like(places, held.shape[1] + 1.0)).amin(1)
    return (last - first + 1).clamp_min(0) / held.shape[1]
