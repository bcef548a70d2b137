"""The last step of the head of mu: it learns to give, from any view of a window, the mu that it gave of the first.

The heads are linear in what the encoder's trunk makes of a window. Gradients leave in them directions in which that
moves when nothing but the view changes. The linear head that predicts mu best and pays for what differs between two
views is known in closed form: a Tikhonov regression (Tikhonov 1963) with that difference as its penalty. What one view
alone tells is lost. Decoder and describer follow by least squares; sigma is that of the latents before, through the
best linear map from the mu before to the new one (`models.training.whitening.with_axes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.networks.vae import Vae
from models.training.settings import TrainingSettings
from models.training.settled import LEAST_DEVIATION, set_head
from models.training.whitening import drawn_views, mixing

WINDOWS = 4096
"""Number of windows that the head is solved for, each in two views."""

_RIDGE = 0.1
"""Beside readings of unit variance."""


@torch.no_grad()
def steady_head(
    vae: Vae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int = WINDOWS
) -> NDArray[np.float64] | None:
    """Set the head of mu to one that is solved for; `settings.steadiness` weighs what differs between two views.

    Second views that show only a tile are left out: where in a body it lies cannot be told from a third of its plane,
    and would be lost from mu.

    Args:
        vae: a trained network that can be whitened, in eval mode.
        scans: the scans it was trained on.
        settings: settings that views are drawn with, two of each window.
        windows: number of windows to draw.

    Returns:
        The linear map (latents, latents) from the mu before to the new one, least squares; None where `steadiness` is 0
        and nothing changed.
    """
    if not settings.steadiness:
        return None
    head, mixed = vae.mu, mixing(vae)
    assert isinstance(head, nn.Linear) and mixed is not None
    drawn = drawn_views(vae, scans, replace(settings, tile=0.0), windows)
    read = torch.cat([vae.trunk(seen).reshape(2, len(target), -1) for seen, target in drawn], 1).double()
    wanted = head(read[0].float()).double()
    before, after = set_head(vae, read[0], *solved(read, wanted, settings.steadiness))
    centred = before - before.mean(0)
    mapped: Tensor = (torch.linalg.pinv(centred) @ (after - after.mean(0))).T
    mixed.squares.copy_(mapped.square())
    return mapped.cpu().numpy()


def solved(read: Tensor, wanted: Tensor, steadiness: float) -> tuple[Tensor, Tensor]:
    """Return weight (latents, values) and bias (latents,) of the head.

    Args:
        read: what the head reads of two views of n windows, (2, n, values), float64.
        wanted: mu of the first views, (n, latents), float64.
        steadiness: weight of the covariance within windows beside that of all readings.
    """
    every = read.flatten(0, 1)
    mean, deviation = every.mean(0), every.std(0).clamp_min(LEAST_DEVIATION)
    scaled, centre = (read - mean) / deviation, wanted.mean(0)
    apart, n = scaled[0] - scaled[1], len(every)
    ridge = _RIDGE * torch.eye(len(mean), dtype=read.dtype, device=read.device)
    every = scaled.flatten(0, 1)
    metric = every.T @ every / n + steadiness * (apart.T @ apart) / n + ridge
    slope = torch.linalg.solve(metric, every.T @ (wanted - centre).repeat(2, 1) / n) / deviation[:, None]
    return slope.T, centre - mean @ slope
