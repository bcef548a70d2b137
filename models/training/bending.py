"""A last step of a training: the latents are bent, so that none has longer tails than the prior.

Among few patients the longest tails are of one or two, and how far a dimension varies depends on whether they are
among those looked at: over a dozen others it varies by half as much, or twice. Bent, it varies by about as much over
any (`models.networks.layers.Arcsinh`). Nothing is lost: each value can be bent back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.networks.layers import Arcsinh
from models.networks.pooled import PooledVae
from models.networks.vae import Vae
from models.training.settings import TrainingSettings
from models.training.settled import follow
from models.training.whitening import WINDOWS, codes_of


@torch.no_grad()
def bend_latents(
    vae: Vae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int = WINDOWS
) -> None:
    """Put the latents through an arcsinh; the aggregate posterior has mean 0 and variance 1 again, the decoder follows.

    Args:
        vae: a network as `with_axes` returns it, in eval mode.
        scans: the scans it was trained on.
        settings: settings that windows are drawn with; they are taken as inference sees them.
        windows: number of windows to draw.
    """
    if not isinstance(vae, PooledVae):
        return
    assert isinstance(vae.mu, nn.Linear)
    arcsinh = Arcsinh(vae.mu.out_features).to(vae.mu.weight.device)
    straight = codes_of(vae, scans, settings.unchanged, windows)[0][:, 0]
    vae.arcsinh = arcsinh
    mu, sigma = (codes[:, 0] for codes in codes_of(vae, scans, settings.unchanged, windows))
    centre, scale = mu.mean(0), np.sqrt(mu.var(0) + np.square(sigma).mean(0))
    arcsinh.centre.copy_(torch.as_tensor(centre))
    arcsinh.scale.copy_(torch.as_tensor(scale))
    _follow(vae, straight, (mu - centre) / scale)


@torch.no_grad()
def straighten(
    vae: Vae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int = WINDOWS
) -> None:
    """Undo `bend_latents`, where a training began at a network that ended with it; arguments as there."""
    if not isinstance(vae, PooledVae) or vae.arcsinh is None:
        return
    bent = codes_of(vae, scans, settings.unchanged, windows)[0][:, 0]
    vae.arcsinh = None
    _follow(vae, bent, codes_of(vae, scans, settings.unchanged, windows)[0][:, 0])


def _follow(vae: Vae, before: NDArray[np.float64], after: NDArray[np.float64]) -> None:
    device = next(vae.parameters()).device
    follow(vae, *(torch.as_tensor(codes, device=device) for codes in (before, after)))
