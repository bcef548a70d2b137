"""The losses of a VAE, and quantities watched during training; in nats per window unless stated otherwise.

Each is a function of the whole batch. Windows enter as one row each (error, mu, log-variance), so that many processes
can gather the rows and compute the same loss as one process.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.training.settings import Likelihood, Penalty

_SMALLEST_ERROR = {"gaussian": 1e-8, "laplace": 1e-4}
_SMALLEST_VARIANCE = 1e-4


def voxel_error(reconstruction: Tensor, target: Tensor, likelihood: Likelihood) -> Tensor:
    """Return (n,): mean over a window's voxels of the squared (Gaussian) or absolute (Laplace) difference."""
    difference = (reconstruction - target).flatten(1)
    return difference.square().mean(1) if likelihood == "gaussian" else difference.abs().mean(1)


def likelihood_nll(error: Tensor, voxels: int, likelihood: Likelihood, scale: float | None = None) -> Tensor:
    """Return the negative log-likelihood of a window, mean over the batch, from its errors (n,) of `voxel_error`.

    Args:
        error: error of each window.
        voxels: number of voxels in a window.
        likelihood: `gaussian`, or `laplace`: -log p = |x - x̂| / b + log 2b per voxel.
        scale: σ or b. None learns one scale for all voxels as the best fit to the batch, σ² = mean squared error or
            b = mean absolute error, and differentiates through it: the σ-VAE of Rybkin et al. 2021 (arXiv:2006.13202,
            "optimal σ-VAE"). It needs no weight against the KL.
    """
    mean = error.mean()
    if likelihood == "gaussian":
        variance = mean.clamp_min(_SMALLEST_ERROR[likelihood]) if scale is None else mean.new_tensor(scale * scale)
        return 0.5 * voxels * (mean / variance + variance.log() + math.log(2 * math.pi))
    width = mean.clamp_min(_SMALLEST_ERROR[likelihood]) if scale is None else mean.new_tensor(scale)
    return voxels * (mean / width + (2 * width).log())


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(q(z|x) ‖ N(0, 1)) per window and dimension, (n, latents): Kingma and Welling 2014, appendix B.

    A weight other than 1 is β of the β-VAE: Higgins et al. 2017 (ICLR, "beta-VAE").
    """
    return 0.5 * (mu.square() + logvar.exp() - logvar - 1)


def free_bits(kl: Tensor, nats: float) -> Tensor:
    """Return a window's KL, batch mean, counting no dimension below `nats`: Kingma et al. 2016, arXiv:1606.04934.

    A dimension that carries less is not pushed further down, so that it may still come into use.
    """
    return kl.mean(0).clamp_min(nats).sum()


def kl_warmup(fraction: float, over: float, beta: float = 1.0) -> float:
    """Return the KL's weight, rising linearly from 0 to `beta` over the first fraction `over`: Sønderby et al. 2016.

    arXiv:1602.02282. Without it, dimensions are pushed to the prior before the decoder has learned to use them.
    """
    return beta if over <= 0 else beta * min(1.0, fraction / over)


def total_correlation(z: Tensor, mu: Tensor, logvar: Tensor, dataset: int) -> Tensor:
    """Return KL(q(z) ‖ Π q(z_k)) of the aggregate posterior, which β-TC-VAE weights with β (β - 1 more than once).

    Estimated by minibatch-weighted sampling: Chen et al. 2018 (arXiv:1802.04942), appendix C:
    log q(z_i) ≈ log Σ_j q(z_i | x_j) - log(dataset · n), and likewise for each dimension alone. It is biased, negative
    for small batches, and intended as a gradient.

    Args:
        z: drawn from the posteriors of the batch, (n, latents).
        mu: means of these posteriors.
        logvar: their log-variances.
        dataset: number of windows in all.
    """
    deviation = z[:, None] - mu[None]
    density = -0.5 * (deviation.square() * (-logvar).exp()[None] + logvar[None] + math.log(2 * math.pi))
    weight = math.log(dataset * len(z))
    joint = density.sum(2).logsumexp(1) - weight
    product = (density.logsumexp(1) - weight).sum(1)
    return (joint - product).mean()


def dip_ii(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return the squared distance of the aggregate posterior's covariance from the identity: DIP-VAE-II.

    Kumar et al. 2018 (arXiv:1711.00848), with λ_od = λ_d: Cov q(z) = E[diag σ²] + Cov[mu].
    """
    centred = mu - mu.mean(0)
    covariance = centred.T @ centred / len(mu) + torch.diag(logvar.exp().mean(0))
    return (covariance - torch.eye(mu.shape[1], device=mu.device)).square().sum()


def mmd(z: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy between z (n, latents) and N(0, 1): InfoVAE, Zhao et al. 2017.

    arXiv:1706.02262, with the Gaussian kernel exp(-‖z - z'‖² / (2 · latents)). The expectations over the prior
    are exact (Rustamov 2019, arXiv:1901.03227), that over pairs of z leaves out i = j and is unbiased.
    """
    n, latents = z.shape
    width = float(latents)
    apart = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").square() if n > 1 else z.new_zeros(1, 1)
    within = ((-apart / (2 * width)).exp().sum() - n) / max(n * (n - 1), 1)
    across = (width / (width + 1)) ** (latents / 2) * (-z.square().sum(1) / (2 * (width + 1))).exp().mean()
    squared: Tensor = within - 2 * across + (width / (width + 2)) ** (latents / 2)
    return squared


def penalty(name: Penalty, z: Tensor, mu: Tensor, logvar: Tensor, dataset: int) -> Tensor:
    """Return the penalty on the aggregate posterior that the settings name, before its weight."""
    if name == "beta_tc":
        return total_correlation(z, mu, logvar, dataset)
    if name == "dip_ii":
        return dip_ii(mu, logvar)
    return mmd(z) if name == "mmd" else mu.new_zeros(())


def pair_distance(mu: Tensor, other: Tensor, logvar: Tensor, other_logvar: Tensor) -> Tensor:
    """Return how far two views of a window are apart: squared difference of mu over the posterior variance, mean.

    The variance is that of both views, averaged and detached: otherwise the network would enlarge it instead of making
    mu steadier. It is at least 1e-4, so that a dimension of tiny variance does not dominate the gradient.
    """
    variance = (0.5 * (logvar.exp() + other_logvar.exp())).detach().clamp_min(_SMALLEST_VARIANCE)
    return ((mu - other).square() / variance).mean()


def pair_ratio(mu: Tensor, other: Tensor) -> Tensor:
    """Return how far two views of a window are apart relative to windows: half the log of that, mean over dimensions.

    For a dimension it is the mean squared difference of the views over the variance between the windows of the batch,
    differentiated through both, plus 0.001. That is nearly 1 - ICC, which no scaling of a dimension changes, so neither
    does shrinking mu; the log weights the last half of the difference as much as the first. The scale is the best fit,
    as in `likelihood_nll`. (n, k) each, n > 1.
    """
    between = 0.5 * (torch.var(mu, dim=0) + torch.var(other, dim=0))
    ratio = (mu - other).square().mean(0) / between.clamp_min(_SMALLEST_VARIANCE)
    return 0.5 * (ratio + 1e-3).log().mean()
