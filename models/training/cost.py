"""The cost of a training step on this machine, measured by taking one."""

from __future__ import annotations

import math
import resource
import time
from dataclasses import dataclass, replace

import numpy as np

from models.networks.vae import Vae
from models.training.augment import margin_voxels
from models.training.settings import TrainingSettings
from models.training.train import train


@dataclass(frozen=True, slots=True)
class StepCost:
    """One step of the optimiser, after a first one that warms up.

    Attributes:
        seconds: duration of the step.
        memory_bytes: peak memory of this process so far, or on a GPU the peak allocated by torch.
        checkpoint_bytes: size of weights and moments.
    """

    seconds: float
    memory_bytes: int
    checkpoint_bytes: int


def measure_step(vae: Vae, settings: TrainingSettings) -> StepCost:
    """Take three steps on noise, in this process alone, and return their cost; the network does not change."""
    import torch

    alone = replace(settings, steps=3, minutes=None, devices=1, nodes=1, patience=0)
    size = [length + 2 * edge for length, edge in zip(vae.window_voxels, margin_voxels(settings), strict=True)]
    noise = np.random.default_rng(0).random((settings.batch, *size), np.float32).astype(np.float16)
    ended_s: list[float] = []
    train([noise], alone, lambda at: ended_s.append(time.monotonic()), report_every_s=0, start=vae)
    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() and settings.accelerator != "cpu" else 0
    weights = sum(tensor.numel() for tensor in vae.parameters())
    copies = 4 if settings.ema else 3
    return StepCost(
        seconds=(ended_s[-1] - ended_s[0]) / (len(ended_s) - 1) if len(ended_s) > 1 else math.nan,
        memory_bytes=memory or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        checkpoint_bytes=4 * copies * weights,
    )
