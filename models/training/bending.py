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
    codes = codes_of(vae, scans, settings.unchanged, windows)
    straight, sigma = (torch.as_tensor(one[:, 0], dtype=torch.float32) for one in codes)
    arcsinh = Arcsinh(vae.mu.out_features)
    mu = arcsinh(straight).double()
    variance = arcsinh.log_variance(straight, 2 * sigma.log()).double().exp()
    centre, scale = mu.mean(0), (mu.var(0, correction=0) + variance.mean(0)).sqrt()
    arcsinh.centre.copy_(centre)
    arcsinh.scale.copy_(scale)
    device = vae.mu.weight.device
    vae.arcsinh = arcsinh.to(device)
    follow(vae, straight.double().to(device), ((mu - centre) / scale).to(device))


@torch.no_grad()
def straighten(
    vae: Vae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int = WINDOWS
) -> None:
    """Undo `bend_latents`, where a training began at a network that ended with it; arguments as there."""
    if not isinstance(vae, PooledVae) or vae.arcsinh is None:
        return
    device = vae.arcsinh.scale.device
    bent, _ = codes_of(vae, scans, settings.unchanged, windows)
    vae.arcsinh = None
    straight, _ = codes_of(vae, scans, settings.unchanged, windows)
    follow(vae, *(torch.as_tensor(codes[:, 0], device=device) for codes in (bent, straight)))
