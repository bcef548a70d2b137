"""The loss of a training step: windows give one row each, the rows of the whole batch give the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.networks.pooled import PooledVae
from models.networks.vae import Vae
from models.training.aggregate_losses import aggregate_distance, tile_group, whitened_pairs, within_groups
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

    Attributes:
        error: of the voxels, (n, 1), as the likelihood counts it.
        squared: mean squared error, (n, 1).
        statistics: errors of the block statistics, (n, values); (n, 0) where they have no weight.
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


class Passed(NamedTuple):
    """What `VaeForward` gives of n windows, their v views one after the other, and of m views kept from earlier steps.

    Attributes:
        mu: (v · n, latents), as are the log-variances; z is that of the n first views.
        reconstruction: of z; so is the description, which a `PooledVae` alone gives, and where it is asked for.
        read: what the heads read of the views, (v · n, …).
        kept_mu: of what was kept, (m, latents), and its log-variances; None where nothing was.
    """

    mu: Tensor
    logvar: Tensor
    z: Tensor
    reconstruction: Tensor
    description: Tensor | None = None
    read: Tensor | None = None
    kept_mu: Tensor | None = None
    kept_logvar: Tensor | None = None


class Codes(NamedTuple):
    """What the terms on all codes together are of, a row for each window: (n, columns), as in `LossInputs`."""

    mu: Tensor
    other: Tensor
    z: Tensor
    group: Tensor

    def both_views(self) -> Tensor:
        """Return (n or 2n, latents): mu of the first view and, where there is one, of the second."""
        return torch.cat((self.mu, self.other)) if self.other.shape[1] else self.mu


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
        self.vae, self.describe, self.settled = vae, describe, False

    def forward(self, seen: Tensor, epsilon: Tensor, kept: Tensor | None = None) -> Passed:
        """Return what the loss is made of.

        Args:
            seen: views (v · n, 1, d, h, w), all first views first.
            epsilon: draws of N(0, 1) for the n first views.
            kept: what the heads read of earlier views, (m, …); they read it again.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.settled):
            read = self.vae.trunk(seen)
        mu, logvar = (head.float() for head in self.vae.heads(read if kept is None else torch.cat([read, kept])))
        views, first = len(seen), len(epsilon)
        z = mu[:first] + torch.exp(0.5 * logvar[:first]) * epsilon.reshape(mu[:first].shape)
        made = self.vae.decode(z), described(self.vae, z) if self.describe else None
        earlier = (None, None) if kept is None else (mu[views:], logvar[views:])
        return Passed(mu[:views], logvar[:views], z, *made, read, *earlier)


def described(vae: Vae, z: Tensor) -> Tensor | None:
    """Return the composition that a `PooledVae` predicts from z."""
    return vae.describe(z) if isinstance(vae, PooledVae) else None


def make_loss_inputs(passed: Passed, target: Tensor, settings: TrainingSettings, vae: Vae | None = None) -> LossInputs:
    """Return the rows from the output of `VaeForward`, targets (n, 1, d, h, w), and a network that describes them."""
    mu, logvar, z, reconstruction = (tensor.float() for tensor in passed[:4])
    n = len(target)
    error = voxel_error(reconstruction, target, settings.likelihood)
    with torch.no_grad():
        gaussian = settings.likelihood == "gaussian"
        squared = error if gaussian else voxel_error(reconstruction, target, "gaussian")
    statistics = error.new_zeros(len(error), 0)
    if settings.feature_weight and passed.description is not None and isinstance(vae, PooledVae):
        with torch.no_grad():
            description = vae.describable(target)
        statistics = (passed.description.float() - description).square()
    elif settings.feature_weight:
        statistics = statistics_error(reconstruction, target, settings.feature_block, settings.feature_bins)
    mu, logvar, z = mu.flatten(1), logvar.flatten(1), z.flatten(1)
    others = (mu[n:], logvar[n:]) if len(mu) > n else (mu.new_zeros(n, 0), mu.new_zeros(n, 0))
    voxels = error[:, None], squared.detach()[:, None], statistics
    return LossInputs(*voxels, mu[:n], logvar[:n], z, *others, tile_group(target))


def objective(
    rows: LossInputs,
    settings: TrainingSettings,
    *,
    voxels: int,
    kl_weight: float,
    dataset: int,
    kept: Codes | None = None,
) -> Parts:
    """Return the loss: likelihood per voxel + KL + penalty + weighted pairs, features, divergence and MMD.

    KL and penalty are divided by the voxels or, with `kl_scale: latent`, by the latents: beside a likelihood per voxel,
    one nat per window has no weight.

    Args:
        rows: of the whole batch, over all processes.
        settings: its weights.
        voxels: in a window.
        kl_weight: of the KL at this step.
        dataset: windows in all.
        kept: codes of earlier windows, by the heads as they are now: aggregate, MMD and pairs are of these too.
    """
    codes = _together(rows, kept)
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
        divergence = aggregate_distance(codes.both_views())
        loss = loss + settings.aggregate * divergence
    if settings.mmd:
        loss = loss + settings.mmd * mmd(codes.z)
    if rows.other_mu.shape[1]:
        pairs = _pairs(rows, codes, settings)
        loss = loss + settings.invariance * pairs
    if rows.statistics.shape[1]:
        features = statistics_nll(rows.statistics)
        loss = loss + settings.feature_weight * features
    mean_kl = kl.mean(0)
    rmse = rows.squared.mean().sqrt()
    return Parts(loss, nll, rmse, mean_kl.sum(), penalised, pairs, features, divergence, mean_kl)


def _pairs(rows: LossInputs, codes: Codes, settings: TrainingSettings) -> Tensor:
    """Return the difference between the two views, on the scale that the settings name."""
    if settings.invariance_scale == "whitened":
        group = torch.cat((codes.group, codes.group))
        return whitened_pairs(codes.mu, codes.other, within_groups(codes.both_views(), group))
    if settings.invariance_scale == "between":
        return pair_ratio(codes.mu, codes.other)
    return pair_distance(rows.mu, rows.other_mu, rows.logvar, rows.other_logvar)


def _together(rows: LossInputs, kept: Codes | None) -> Codes:
    own = Codes(rows.mu, rows.other_mu, rows.z, rows.group)
    return own if kept is None else Codes(*(torch.cat(pair) for pair in zip(own, kept, strict=True)))
