"""The second part of a training: what lies before the heads stays as it is, and the heads begin anew.

The terms on all codes together need the codes of many windows by one network. Codes of some steps ago are those of
another network, and even what its heads read of them drifts by more than the shorter axes of mu are long: over 30 steps
the drift was most of the variance. Once the trunk stays, what the heads read of a window stays too
(`models.training.bank`).

They begin at the whitened principal components of what they read. It is nearly collinear: of 32 random projections of
it, half vary by less than a hundredth of the first, and a gradient does not make up for that in a training. Where the
network reads moments, these and the composition count more than the rest: they are of any patient what they are of
those learned from, and what a trunk learned from few patients is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.networks.pooled import PooledVae
from models.networks.vae import Vae
from models.training.settings import TrainingSettings
from models.training.whitening import drawn_views, fed_by_z

WINDOWS = 512
"""Number of windows whose components the heads begin at."""

LEAST_DEVIATION = 1e-3
"""Of a reading that is divided by its own."""
COMPOSITION, MOMENTS = 36.0, 12.0
"""Weights of composition and moments, as they are, beside readings of unit variance."""
_LOGVAR = -3.0
"""Of the posterior at the beginning: well below the variance of mu, which is 1."""


@torch.no_grad()
def begin_at_components(
    vae: Vae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int = WINDOWS
) -> None:
    """Set the head of mu to whitened principal components of what it reads; decoder and describer follow.

    What these made of the old mu they then make of its best linear guess from the new one. Changes nothing where the
    ends are not linear, or the windows are no more than the latents.

    Args:
        vae: in eval mode.
        scans: that it is trained on.
        settings: what the views are drawn with.
        windows: how many are looked at.
    """
    head = vae.mu
    if not isinstance(head, nn.Linear) or not fed_by_z(vae) or windows <= head.out_features:
        return
    read = torch.cat([vae.trunk(seen) for seen, _ in drawn_views(vae, scans, settings, windows)]).double()
    mean, deviation = read.mean(0), units_of(vae, read)
    _, lengths, axes = torch.linalg.svd((read - mean) / deviation, full_matrices=False)
    scale = len(read) ** 0.5 / lengths[: head.out_features].clamp_min(1e-6 * lengths[0])
    weight = scale[:, None] * axes[: head.out_features] / deviation
    set_head(vae, read, weight, -weight @ mean)
    first = vae.logvar[0] if isinstance(vae.logvar, nn.Sequential) else vae.logvar
    if isinstance(first, nn.Linear):
        nn.init.zeros_(first.weight)
        nn.init.constant_(first.bias, _LOGVAR)


def units_of(vae: Vae, read: Tensor, composition: float = COMPOSITION, moments: float = MOMENTS) -> Tensor:
    """Return what each reading is divided by, (values,): its deviation; by its weight instead where moments are read.

    Args:
        vae: the network whose heads read.
        read: what they read of some windows, (n, values).
        composition: weight of the composition's values, where the network reads moments.
        moments: weight of the moments.
    """
    units = read.std(0).clamp_min(LEAST_DEVIATION)
    if isinstance(vae, PooledVae) and vae.moments:
        units[vae.untrained_readings] = 1 / vae.untrained_weights(composition, moments).to(units)
    return units


@torch.no_grad()
def set_head(vae: Vae, read: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Give mu another linear head; decoder and describer follow. Returns mu before and after, (n, latents) each.

    Args:
        vae: with a linear head.
        read: what the head reads of some windows, (n, values), float64.
        weight: (latents, values).
        bias: (latents,).
    """
    head = vae.mu
    assert isinstance(head, nn.Linear)
    before, after = head(read.float()).double(), read @ weight.T + bias
    head.weight.copy_(weight)
    head.bias.copy_(bias)
    follow(vae, before, after)
    return before, after


@torch.no_grad()
def follow(vae: Vae, before: Tensor, after: Tensor) -> None:
    """Give decoder and describer, which took the codes `before`, those `after`, (n, k) each: by least squares."""
    ones = after.new_ones(len(after), 1)
    solved = torch.linalg.pinv(torch.cat([after, ones], 1)) @ before
    slope, offset = solved[:-1], solved[-1]
    for linear in fed_by_z(vae):
        weight = linear.weight.double()
        linear.bias.add_((weight @ offset).float())
        linear.weight.copy_(weight @ slope.T)
