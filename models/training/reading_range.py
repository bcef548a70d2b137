"""The end of a training: what the heads read is clipped to about the range that training saw.

The heads are linear, and most of what they read varies little between windows. A channel that is silent in all windows
of a training has a large weight for its small deviations; where a scan unlike any makes it loud, mu goes anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.networks.pooled import PooledVae
from models.networks.vae import Vae
from models.training.settings import TrainingSettings
from models.training.whitening import drawn_views

WINDOWS = 1024
"""Number of windows that are drawn, each in all of its views."""

BEYOND = 0.5
"""How far beyond the smallest and the largest reading the range goes, in lengths of it."""


@torch.no_grad()
def clip_readings(
    vae: Vae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int = WINDOWS
) -> None:
    """Set the range that each reading of the heads is clipped to; nothing where the network has none.

    Args:
        vae: a trained network, in eval mode; ranges that it has, such as those of a network it was tuned from, go.
        scans: the scans it was trained on.
        settings: settings that their windows are drawn with.
        windows: number of windows to draw.
    """
    if not isinstance(vae, PooledVae) or vae.clip is None:
        return
    vae.clip.open()
    reads = torch.cat([vae.trunk(seen) for seen, _ in drawn_views(vae, scans, replace(settings, tile=0.0), windows)])
    low, high = reads.amin(0), reads.amax(0)
    beyond = BEYOND * (high - low)
    vae.clip.low.copy_(low - beyond)
    vae.clip.high.copy_(high + beyond)
