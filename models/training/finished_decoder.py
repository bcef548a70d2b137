"""A last step of a training: the decoder goes on alone, once the heads are what they will be.

Until then it followed heads that changed, and was asked for the mean of what a code may stand for. The median is closer
to most voxels: the error in HU falls, on patients whom it never saw too. It sees draws of the posterior, so that it
learns what a code near mu stands for, and the encoder does not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.networks.vae import Vae
from models.training.learning_rate import learning_rate
from models.training.settings import TrainingSettings
from models.training.whitening import drawn_codes

WINDOWS = 2048
"""Number of windows that are drawn, and kept in memory in float16: 1.2 GB of 32 × 96 × 96."""

BATCH = 16
_PEAK = 1e-3


def finish_decoder(
    vae: Vae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int = WINDOWS
) -> None:
    """Train the decoder alone for `settings.decoder_steps`, with a Laplace likelihood of the voxels.

    Args:
        vae: a trained network, in eval mode, whose heads stay.
        scans: the patients' scans it was trained on: phantoms lead it astray where mu has hardly an axis for them.
        settings: settings that their windows are drawn with.
        windows: number of windows to draw.
    """
    if not settings.decoder_steps or vae.decoder is None:
        return
    mu, deviation, targets = _codes(vae, scans, settings, windows)
    draw = torch.Generator().manual_seed(settings.seed)
    optimiser = torch.optim.AdamW(vae.decoder.parameters(), lr=_PEAK, weight_decay=0.0)
    device = next(vae.parameters()).device
    for step in range(settings.decoder_steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step / settings.decoder_steps, _PEAK)
        rows = torch.randint(len(targets), (BATCH,), generator=draw)
        views = torch.randint(len(mu), (BATCH,), generator=draw)
        codes = mu[views, rows] + deviation[views, rows] * torch.randn(BATCH, mu.shape[2], generator=draw)
        made = vae.decode(codes.to(device))
        optimiser.zero_grad()
        functional.l1_loss(made, targets[rows].to(device).float()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    optimiser.zero_grad()


def _codes(
    vae: Vae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mu and sigma of each view, (views, windows, latents), and targets (windows, 1, d, h, w), on the CPU."""
    mus, sigmas, targets = [], [], []
    for mu, logvar, target in drawn_codes(vae, scans, replace(settings, tile=0.0), windows):
        mus.append(mu)
        sigmas.append(torch.exp(0.5 * logvar))
        targets.append(target.half())
    return torch.cat(mus, 1), torch.cat(sigmas, 1), torch.cat(targets)
