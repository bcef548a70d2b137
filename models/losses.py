"""What a VAE is trained to make small, and what is watched meanwhile. All of it in nats a window."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gaussian_nll(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of the targets (n, 1, d, h, w) under a Gaussian of learned scale, mean over the batch.

    The one scale of all voxels is the one that fits the batch best, σ² = mean squared error, and is differentiated
    through: the σ-VAE of Rybkin et al. 2021 (arXiv:2006.13202). It needs no weight against the KL.
    """
    mse = (reconstruction - target).square().mean().clamp_min(1e-8)
    voxels = target[0].numel()
    return 0.5 * voxels * (mse.log() + 1 + math.log(2 * math.pi))


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(q(z|x) ‖ N(0, 1)) of each window and dimension, (n, latents): Kingma and Welling 2014, appendix B."""
    return 0.5 * (mu.square() + logvar.exp() - logvar - 1)


def free_bits(kl: Tensor, nats: float) -> Tensor:
    """The KL of a window, mean over the batch, no dimension counted below `nats`: Kingma et al. 2016, arXiv:1606.04934.

    A dimension that carries less is not pushed further down, so that it may come to be used.
    """
    return kl.mean(0).clamp_min(nats).sum()


def active_units(mu: Tensor, threshold: float = 0.01) -> int:
    """How many dimensions of mu (n, latents) vary over the data by more than `threshold`: Burda et al. 2016, §5.2.

    Few mean posterior collapse: the decoder has learned to do without z.
    """
    return int((torch.var(mu, dim=0, correction=0) > threshold).sum())
