"""The loss of a training step: from single windows one row each, from the rows of the whole batch the loss."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.networks.pooled import PooledVae
from models.networks.vae import Vae
from models.training.local_statistics import statistics_error, statistics_nll
from models.training.losses import (
    free_bits,
    kl_divergence,
    likelihood_nll,
    pair_distance,
    pair_ratio,
    penalty,
    voxel_error,
)
from models.training.settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class LossInputs:
    """What the loss needs of the windows of a batch, a row each: (n, columns).

    Attributes:
        error: of the voxels, (n, 1), as the likelihood counts it.
        squared: mean squared error, (n, 1).
        statistics: errors of the block statistics; (n, 0) where they have no weight.
        mu: of the first view; then the log-variance, and z drawn from them.
        other_mu: of the second view, then its log-variance; (n, 0) where there is none.
    """

    error: Tensor
    squared: Tensor
    statistics: Tensor
    mu: Tensor
    logvar: Tensor
    z: Tensor
    other_mu: Tensor
    other_logvar: Tensor

    def packed(self) -> tuple[Tensor, list[int]]:
        """One tensor, and the widths that `unpacked` needs: so that one call gathers it from many processes."""
        parts = [getattr(self, one.name) for one in fields(self)]
        return torch.cat(parts, dim=1), [part.shape[1] for part in parts]

    @staticmethod
    def unpacked(packed: Tensor, widths: list[int]) -> LossInputs:
        """Undoes `packed`."""
        return LossInputs(*torch.split(packed, widths, dim=1))


class Parts(NamedTuple):
    """The loss and what it is made of, as in `models.training.progress.Progress`."""

    loss: Tensor
    nll: Tensor
    rmse: Tensor
    kl: Tensor
    penalty: Tensor
    invariance: Tensor
    features: Tensor
    kl_by_dimension: Tensor


class VaeForward(nn.Module):
    """Encoder, draw and decoder in one forward, which is what many processes need to share its gradients."""

    def __init__(self, vae: Vae, *, describe: bool = True) -> None:
        super().__init__()
        self.vae, self.describe = vae, describe

    def forward(self, seen: Tensor, epsilon: Tensor) -> tuple[Tensor, ...]:
        """(mu, logvar, z, reconstruction) of views (views · n, 1, d, h, w); the last two of the first n views.

        Of a `PooledVae` also the description, of those, where that is asked for.
        """
        mu, logvar = (head.float() for head in self.vae.encode(seen))
        first = len(epsilon)
        z = mu[:first] + torch.exp(0.5 * logvar[:first]) * epsilon.reshape(mu[:first].shape)
        return mu, logvar, z, *(decoded(self.vae, z) if self.describe else (self.vae.decode(z),))


def decoded(vae: Vae, z: Tensor) -> tuple[Tensor, ...]:
    """What z stands for: the reconstruction; of a `PooledVae` the description too."""
    return (vae.decode(z), vae.describe(z)) if isinstance(vae, PooledVae) else (vae.decode(z),)


def make_loss_inputs(
    passed: tuple[Tensor, ...], target: Tensor, settings: TrainingSettings, vae: Vae | None = None
) -> LossInputs:
    """From what `VaeForward` gave, the targets (n, 1, d, h, w), and the network, where it says how to describe them."""
    mu, logvar, z, reconstruction, *described = (tensor.float() for tensor in passed)
    n = len(target)
    error = voxel_error(reconstruction, target, settings.likelihood)
    with torch.no_grad():
        gaussian = settings.likelihood == "gaussian"
        squared = error if gaussian else voxel_error(reconstruction, target, "gaussian")
    statistics = error.new_zeros(n, 0)
    if settings.feature_weight and described and isinstance(vae, PooledVae):
        with torch.no_grad():
            wanted = vae.describable(target)
        statistics = (described[0] - wanted).square()
    elif settings.feature_weight:
        statistics = statistics_error(reconstruction, target, settings.feature_block, settings.feature_bins)
    mu, logvar, z = mu.flatten(1), logvar.flatten(1), z.flatten(1)
    others = (mu[n:], logvar[n:]) if len(mu) > n else (mu.new_zeros(n, 0), mu.new_zeros(n, 0))
    return LossInputs(error[:, None], squared.detach()[:, None], statistics, mu[:n], logvar[:n], z, *others)


def objective(rows: LossInputs, settings: TrainingSettings, *, voxels: int, kl_weight: float, dataset: int) -> Parts:
    """The loss, a voxel: (voxels' likelihood + KL + penalty) / voxels + invariance · pairs + features.

    Args:
        rows: of the whole batch, over all processes.
        settings: its weights.
        voxels: in a window.
        kl_weight: of the KL at this step.
        dataset: windows in all.
    """
    zero = rows.mu.new_zeros(())
    scale = None if settings.scale == "learned" else settings.scale
    nll = likelihood_nll(rows.error.squeeze(1), voxels, settings.likelihood, scale)
    kl = kl_divergence(rows.mu, rows.logvar)
    loss = nll + kl_weight * free_bits(kl, settings.free_bits_nats)
    aggregate = zero
    if settings.penalty != "none":
        aggregate = penalty(settings.penalty, rows.z, rows.mu, rows.logvar, dataset)
        loss = loss + settings.penalty_weight * aggregate
    loss = loss / voxels
    pairs = features = zero
    if rows.other_mu.shape[1]:
        if settings.invariance_scale == "between":
            pairs = pair_ratio(rows.mu, rows.other_mu)
        else:
            pairs = pair_distance(rows.mu, rows.other_mu, rows.logvar, rows.other_logvar)
        loss = loss + settings.invariance * pairs
    if rows.statistics.shape[1]:
        features = statistics_nll(rows.statistics)
        loss = loss + settings.feature_weight * features
    mean_kl = kl.mean(0)
    return Parts(loss, nll, rows.squared.mean().sqrt(), mean_kl.sum(), aggregate, pairs, features, mean_kl)
