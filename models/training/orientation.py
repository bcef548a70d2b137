"""A last step of a training: the tap `orientation` learns to tell chests from the same upside down and back to front.

Nothing else notices: a decoder that blurs rebuilds an upside-down chest as well as any, and what the heads read is
much the same. What lies where in a chest is the same in all people, so a few of them are enough to learn it from,
turned, magnified and mirrored at random; in a limb nobody sees which end is up, so limbs are not shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.networks.layers import Orientation
from models.networks.pooled import PooledVae
from models.networks.vae import Vae
from models.training.settings import TrainingSettings
from models.training.whitening import drawn_views, scans_drawn

WINDOWS = 1024
"""Number of windows that are drawn; those with lung are kept."""

STEPS = 600
BATCH = 24
_PEAK = 3e-3
_DECAY = 0.05
_LEAST_LUNG = 0.5

_TURN, _ZOOM, _STRETCH, _SHIFT = 15.0, 0.25, 0.15, (0.15, 0.15, 0.2)
"""Largest turn in degrees; magnification, and along one axis alone; shift along x, y and z, in lengths of a window."""
_CONTRAST = 1.5
"""What is denser than water may be so by up to this much more: contrast agent must not decide."""
_WATER, _NOISE = 0.53, 0.01


@dataclass(frozen=True, slots=True)
class Chests:
    """Windows with lung.

    Attributes:
        halved: (n, 1, d / 2, h / 2, w / 2), at half the resolution.
        weight: (n,), how often each is seen: every scan as often as the others.
    """

    halved: Tensor
    weight: Tensor


def learn_orientation(
    vae: Vae,
    scans: Sequence[NDArray[np.floating[Any]]],
    settings: TrainingSettings,
    windows: int = WINDOWS,
    steps: int = STEPS,
) -> None:
    """Train the tap `orientation`, anew; nothing where the network has none, or none of the scans shows a chest.

    Args:
        vae: a trained network, in eval mode.
        scans: the patients' scans it was trained on.
        settings: whose seed all draws have; nothing else of them counts.
        windows: number of windows to draw.
        steps: number of the optimiser's steps.
    """
    if not isinstance(vae, PooledVae) or vae.orientation is None:
        return
    chests = drawn_chests(vae, scans, settings, windows)
    if chests is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            fitted = fit_orientation(chests, vae.window_voxels, steps)
        vae.orientation.load_state_dict(fitted.state_dict())


@torch.no_grad()
def drawn_chests(
    vae: PooledVae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int
) -> Chests | None:
    """Return the windows with lung among drawn ones, on the CPU; None without any.

    Args:
        vae: a network with the tap.
        scans: to draw from.
        settings: whose seed they are drawn with; unchanged, but for the place.
        windows: number of windows to draw.
    """
    assert vae.orientation is not None
    halved, kept = [], []
    for seen, _ in drawn_views(vae, scans, settings.unchanged, windows):
        kept.append((vae.orientation.lung(seen) >= _LEAST_LUNG).cpu())
        halved.append(functional.avg_pool3d(seen, 2).cpu()[kept[-1]])
    of_scan = scans_drawn(vae, scans, settings.unchanged, windows)[torch.cat(kept).numpy()]
    if not len(of_scan):
        return None
    return Chests(torch.cat(halved), torch.from_numpy(1 / np.bincount(of_scan)[of_scan]))


def fit_orientation(chests: Chests, window_voxels: tuple[int, int, int], steps: int = STEPS) -> Orientation:
    """Return a network that tells flipped chests, in eval mode; its draws are of torch's own generator.

    Args:
        chests: to learn from.
        window_voxels: (d, h, w) of a window.
        steps: number of the optimiser's steps.
    """
    made = Orientation(window_voxels).train()
    optimiser = torch.optim.AdamW(made.parameters(), lr=_PEAK, weight_decay=_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, _PEAK, steps)
    for _ in range(steps):
        seen = changed(chests.halved[torch.multinomial(chests.weight, BATCH, replacement=True)])
        wrong = torch.rand(BATCH, 2) < 0.5
        odds = made.odds(flipped(seen, wrong))
        optimiser.zero_grad()
        functional.binary_cross_entropy_with_logits(odds, wrong.float()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        rate.step()
    return made.eval()


def flipped(windows: Tensor, wrong: Tensor) -> Tensor:
    """Return windows (n, 1, d, h, w), upside down where the first of `wrong` (n, 2) says so, back to front the second.

    Slices are (z, y, x) towards head, back and left.
    """
    made = windows.clone()
    for column, axis in enumerate((2, 3)):
        turned = wrong[:, column]
        made[turned] = made[turned].flip(axis)
    return made


def changed(windows: Tensor) -> Tensor:
    """Return windows (n, 1, d, h, w) turned, magnified, moved, mirrored and with other contrast, drawn for each."""
    n = len(windows)
    angle = math.radians(_TURN) * _drawn(n)
    wide = 1 + _ZOOM * _drawn(n)
    high, deep = wide * (1 + _STRETCH * _drawn(n)), 1 + _STRETCH * _drawn(n)
    maps = torch.zeros(n, 3, 4)  # axes x, y, z
    maps[:, 0, 0], maps[:, 0, 1] = wide * angle.cos(), -high * angle.sin()
    maps[:, 1, 0], maps[:, 1, 1] = wide * angle.sin(), high * angle.cos()
    maps[:, 2, 2] = deep
    maps[:, :, 3] = 2 * torch.tensor(_SHIFT) * torch.stack([_drawn(n) for _ in range(3)], 1)
    grid = functional.affine_grid(maps, list(windows.shape), align_corners=False)
    made = functional.grid_sample(windows, grid, align_corners=False)
    mirrored = torch.rand(n) < 0.5
    made[mirrored] = made[mirrored].flip(4)
    denser = 1 + _CONTRAST * torch.rand(n, 1, 1, 1, 1)
    made = torch.where(made > _WATER, (_WATER + (made - _WATER) * denser).clamp_max(1.0), made)
    return made + _NOISE * torch.randn_like(made)


def _drawn(count: int) -> Tensor:
    return 2 * torch.rand(count) - 1
