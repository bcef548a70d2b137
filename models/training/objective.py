"""The loss of a training step: windows give one row each, the rows of the whole batch give the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.networks.pooled import PooledVae
from models.networks.vae import Vae
from models.training.aggregate_losses import aggregate_divergence, tile_group, whitened_pairs, within_groups
from models.training.local_statistics import statistics_error, statistics_nll
from models.training.losses import (
    free_bits,
    kl_divergence,
    likelihood_nll,
    mmd,
    pair_distance,
    pair_ratio,
    penalty,
    voxel_error,
)
from models.training.settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class LossInputs:
    """What the loss needs from the windows of a batch, one row each: (rows, columns).

    All n windows are encoded; d of them, evenly spaced, are also decoded (`TrainingSettings.decode`).

    Attributes:
        error: voxel error, (d, 1), as the likelihood counts it.
        squared: mean squared error, (d, 1).
        statistics: errors of the block statistics, (d, values); (d, 0) where they have no weight.
        mu: of the first view, (n, latents); then the log-variance, and z drawn from them.
        other_mu: of the second view, then its log-variance; (n, 0) without one.
        group: 1 for a cropped tile, 0 for a whole field of view, (n, 1).
    """

    error: Tensor
    squared: Tensor
    statistics: Tensor
    mu: Tensor
    logvar: Tensor
    z: Tensor
    other_mu: Tensor
    other_logvar: Tensor
    group: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return every field by name, so that many processes can exchange them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def joined(parts: Sequence[LossInputs]) -> LossInputs:
        """Return the rows of all parts."""
        return LossInputs(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(LossInputs)))


class Parts(NamedTuple):
    """The loss and its parts, as in `models.training.progress.Progress`."""

    loss: Tensor
    nll: Tensor
    rmse: Tensor
    kl: Tensor
    penalty: Tensor
    invariance: Tensor
    features: Tensor
    aggregate: Tensor
    kl_by_dimension: Tensor


class VaeForward(nn.Module):
    """Encoder, draw and decoder in one forward, which many processes need to share its gradients."""

    def __init__(self, vae: Vae, *, describe: bool = True) -> None:
        super().__init__()
        self.vae, self.describe = vae, describe

    def forward(self, seen: Tensor, epsilon: Tensor, every: int = 1) -> tuple[Tensor, ...]:
        """Return (mu, logvar, z, reconstruction) of views (views · n, 1, d, h, w).

        z is that of the n first views, of which one in `every` is decoded. For a `PooledVae` their description comes
        last, if requested.
        """
        mu, logvar = (head.float() for head in self.vae.encode(seen))
        first = len(epsilon)
        z = mu[:first] + torch.exp(0.5 * logvar[:first]) * epsilon.reshape(mu[:first].shape)
        chosen = z[::every]
        return mu, logvar, z, *(decoded(self.vae, chosen) if self.describe else (self.vae.decode(chosen),))


def decoded(vae: Vae, z: Tensor) -> tuple[Tensor, ...]:
    """Return what is decoded from z: the reconstruction, and for a `PooledVae` the description too."""
    return (vae.decode(z), vae.describe(z)) if isinstance(vae, PooledVae) else (vae.decode(z),)


def make_loss_inputs(
    passed: tuple[Tensor, ...], target: Tensor, settings: TrainingSettings, vae: Vae | None = None
) -> LossInputs:
    """Return the rows from the output of `VaeForward`, targets (n, 1, d, h, w), and a network that describes them."""
    mu, logvar, z, reconstruction, *described = (tensor.float() for tensor in passed)
    n, wanted = len(target), target[:: len(target) // len(reconstruction)]
    error = voxel_error(reconstruction, wanted, settings.likelihood)
    with torch.no_grad():
        gaussian = settings.likelihood == "gaussian"
        squared = error if gaussian else voxel_error(reconstruction, wanted, "gaussian")
    statistics = error.new_zeros(len(error), 0)
    if settings.feature_weight and described and isinstance(vae, PooledVae):
        with torch.no_grad():
            description = vae.describable(wanted)
        statistics = (described[0] - description).square()
    elif settings.feature_weight:
        statistics = statistics_error(reconstruction, wanted, settings.feature_block, settings.feature_bins)
    mu, logvar, z = mu.flatten(1), logvar.flatten(1), z.flatten(1)
    others = (mu[n:], logvar[n:]) if len(mu) > n else (mu.new_zeros(n, 0), mu.new_zeros(n, 0))
    voxels = error[:, None], squared.detach()[:, None], statistics
    return LossInputs(*voxels, mu[:n], logvar[:n], z, *others, tile_group(target))


def objective(rows: LossInputs, settings: TrainingSettings, *, voxels: int, kl_weight: float, dataset: int) -> Parts:
    """Return the loss: likelihood per voxel + KL + penalty + weighted pairs, features, divergence and MMD.

    KL and penalty are divided by the voxels or, with `kl_scale: latent`, by the latents: beside a likelihood per voxel,
    one nat per window has no weight.

    Args:
        rows: rows of the whole batch, over all processes.
        settings: the weights.
        voxels: number of voxels in a window.
        kl_weight: weight of the KL at this step.
        dataset: number of windows in all.
    """
    zero = rows.mu.new_zeros(())
    scale = None if settings.scale == "learned" else settings.scale
    nll = likelihood_nll(rows.error.squeeze(1), voxels, settings.likelihood, scale)
    kl = kl_divergence(rows.mu, rows.logvar)
    per = rows.mu.shape[1] if settings.kl_scale == "latent" else voxels
    loss = nll / voxels + kl_weight * free_bits(kl, settings.free_bits_nats) / per
    penalised = pairs = features = divergence = zero
    if settings.penalty != "none":
        penalised = penalty(settings.penalty, rows.z, rows.mu, rows.logvar, dataset)
        loss = loss + settings.penalty_weight * penalised / per
    if settings.aggregate:
        divergence = aggregate_divergence(_both_views(rows))
        loss = loss + settings.aggregate * divergence
    if settings.mmd:
        loss = loss + settings.mmd * mmd(rows.z)
    if rows.other_mu.shape[1]:
        pairs = _pairs(rows, settings)
        loss = loss + settings.invariance * pairs
    if rows.statistics.shape[1]:
        features = statistics_nll(rows.statistics)
        loss = loss + settings.feature_weight * features
    mean_kl = kl.mean(0)
    rmse = rows.squared.mean().sqrt()
    return Parts(loss, nll, rmse, mean_kl.sum(), penalised, pairs, features, divergence, mean_kl)


def _pairs(rows: LossInputs, settings: TrainingSettings) -> Tensor:
    """Return the difference between the two views, on the scale that the settings name."""
    if settings.invariance_scale == "whitened":
        group = torch.cat((rows.group, rows.group))
        return whitened_pairs(rows.mu, rows.other_mu, within_groups(_both_views(rows).detach(), group))
    if settings.invariance_scale == "between":
        return pair_ratio(rows.mu, rows.other_mu)
    return pair_distance(rows.mu, rows.other_mu, rows.logvar, rows.other_logvar)


def _both_views(rows: LossInputs) -> Tensor:
    return torch.cat((rows.mu, rows.other_mu)) if rows.other_mu.shape[1] else rows.mu
