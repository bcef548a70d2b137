"""The end of an encoder's training: the head of mu is solved for, and the encoder stays as it is from then on.

A gradient does not find 32 directions that say different things: with one axis far longer than the others, every
dimension gains by following it, and terms on the codes of a batch, or of a bank of 2,040 windows, made up for part of
that. But the head is linear, and of linear heads the best is known: reduced-rank regression (Izenman 1975, doi
10.1016/0047-259X(75)90042-1) of what a window holds on what the head reads, with what differs between two views of a
window as a penalty. It takes seconds, and its codes are whitened, so no dimension repeats another.

What a window holds are its first principal components, each weighted by the root of its deviation, and its composition
(`models.networks.pooled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.networks.pooled import PooledVae
from models.networks.vae import Vae
from models.training.settings import TrainingSettings
from models.training.whitening import drawn_views, fed_by_z

WINDOWS = 1024
"""Number of windows that the head is solved on, each seen as in training."""

_LEAST_DEVIATION = 1e-3
_RIDGE = 0.1
_COMPONENTS_PER_LATENT = 2
_COMPOSITION = 2.0
"""Root of the weight of the composition's variance beside that of the principal components."""

_LOGVAR = -2.4
"""Of the posterior at the beginning: a deviation of 0.3 where that of mu is 1."""


class _Drawn(NamedTuple):
    """Windows as the head sees them.

    Attributes:
        read: what the head reads of each view, (views, n, values).
        held: what the window holds, (n, values).
    """

    read: Tensor
    held: Tensor


@torch.no_grad()
def settle_mu(
    vae: Vae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int = WINDOWS
) -> None:
    """Set the head of mu to what is solved for; decoder and describer follow.

    What these made of the old mu they then make of its best linear guess from the new one, and the log-variance begins
    anew. Changes nothing where the ends are not linear, or the windows are no more than the latents.

    Args:
        vae: in eval mode.
        scans: that it is trained on.
        settings: what the views are drawn with, and `steadiness`.
        windows: how many are looked at.
    """
    head = vae.mu
    if not isinstance(head, nn.Linear) or not fed_by_z(vae) or windows <= head.out_features:
        return
    drawn = _drawn(vae, scans, settings, windows, components=_COMPONENTS_PER_LATENT * head.out_features)
    every = drawn.read.flatten(0, 1)
    mean, deviation = every.mean(0), every.std(0).clamp_min(_LEAST_DEVIATION)
    directions = best_directions((drawn.read - mean) / deviation, drawn.held, head.out_features, settings.steadiness)
    weight = (directions / deviation[:, None]).T
    before, after = head(every.float()).double(), (every - mean) @ weight.T
    head.weight.copy_(weight)
    head.bias.copy_(-weight @ mean)
    _follow(fed_by_z(vae), before, after)
    first = vae.logvar[0] if isinstance(vae.logvar, nn.Sequential) else vae.logvar
    if isinstance(first, nn.Linear):
        nn.init.zeros_(first.weight)
        nn.init.constant_(first.bias, _LOGVAR)


def best_directions(read: Tensor, held: Tensor, count: int, steadiness: float) -> Tensor:
    """Return the directions (values, count) in which what is read predicts best what is held, whitened.

    With X the centred readings of all views, Y what their windows hold, D half the differences of two views, M =
    cov(X) + steadiness · cov(D) + ridge: the longest principal axes of Y's prediction X M⁻¹ cov(X, Y), in the metric
    of M. The codes X · directions have unit variance and no covariance.

    Args:
        read: standardised readings, (views, n, values).
        held: (n, m), m not below `count`.
        count: number of directions.
        steadiness: weight of the differences; without a second view there are none.
    """
    views, n, values = read.shape
    every = read.flatten(0, 1)
    every = every - every.mean(0)
    metric = every.T @ every / len(every) + _RIDGE * torch.eye(values, dtype=read.dtype, device=read.device)
    if views > 1:
        apart = read[0] - read[1]
        metric = metric + steadiness * (apart.T @ apart) / (2 * n)
    together = every.T @ (held - held.mean(0)).repeat(views, 1) / len(every)
    slopes = torch.linalg.solve(metric, together)
    _, axes = torch.linalg.eigh(slopes.T @ together)
    directions = slopes @ axes[:, -count:].flip(1)
    codes = every @ directions
    lengths, turned = torch.linalg.eigh(codes.T @ codes / len(codes))
    return directions @ (turned / lengths.clamp_min(1e-9 * lengths[-1]).sqrt()).flip(1)


def _drawn(
    vae: Vae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int, components: int
) -> _Drawn:
    """Return drawn windows, float64."""
    read, images, composition = [], [], []
    for seen, target in drawn_views(vae, scans, settings, windows):
        read.append(vae.trunk(seen).reshape(len(seen) // len(target), len(target), -1))
        images.append(functional.avg_pool3d(target, 2).flatten(1))
        if isinstance(vae, PooledVae):
            composition.append(vae.describable(target))
    held = [principal_scores(torch.cat(images), components)]
    if composition:
        described = torch.cat(composition).double()
        held.append(_COMPOSITION * _of_unit_variance(described - described.mean(0)))
    return _Drawn(torch.cat(read, 1).double(), torch.cat(held, 1))


def principal_scores(images: Tensor, count: int) -> Tensor:
    """Return the first principal components of images (n, voxels), (n, count), each over the root of its deviation.

    So a component of a hundredth of the variance weighs a tenth, and the finer ones have a say. The total variance is
    1.
    """
    centred = images - images.mean(0)
    squares, axes = torch.linalg.eigh((centred @ centred.T).double())
    deviation = squares[-count:].clamp_min(0).sqrt().flip(0)
    return _of_unit_variance(axes[:, -count:].flip(1) * deviation.sqrt())


def _of_unit_variance(values: Tensor) -> Tensor:
    scaled: Tensor = values / values.square().sum(1).mean().sqrt()
    return scaled


def _follow(linears: Sequence[nn.Linear], before: Tensor, after: Tensor) -> None:
    """Give layers that took the codes `before` those `after`, (n, k) each: the least squares from one to the other."""
    ones = after.new_ones(len(after), 1)
    solved = torch.linalg.pinv(torch.cat([after, ones], 1)) @ before
    slope, offset = solved[:-1], solved[-1]
    for linear in linears:
        weight = linear.weight.double()
        linear.bias.add_((weight @ offset).float())
        linear.weight.copy_(weight @ slope.T)
