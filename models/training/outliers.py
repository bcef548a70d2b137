"""The last step of a training: the tap `outlier` learns to tell windows of patients from what is none.

How well a window is rebuilt, and how far its mu lies from others, say little about that: a decoder that blurs rebuilds
a test object as well as a patient. Outlier exposure (Hendrycks et al., 2019, arXiv:1812.04606) shows what to look for:
a logistic regression on the pooled values that the heads read, between the training's windows and others made up here.
None is a scan that anybody took, so what it then finds in one was not learned from such scans. `dense` and moments are
left out: of few patients they are so much alike that an organ alone, which is none of them, would be an outlier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.networks.pooled import PooledVae
from models.networks.vae import Vae
from models.training.settings import TrainingSettings
from models.training.settled import LEAST_DEVIATION
from models.training.whitening import drawn_views

Windows = NDArray[np.float32]

WINDOWS = 1024
"""Number of windows that are drawn of the training's scans; as many outliers of each kind are made."""

RIDGE = 1e-3
"""Weight of the squared coefficients, beside readings of unit variance and a mean loss."""
_MOST_STEPS = 100
_SETTLED = 1e-9
_STREAM = 4
"""Of the random draws, beside those of `models.training.draws`."""


@torch.no_grad()
def learn_outliers(
    vae: Vae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int = WINDOWS
) -> None:
    """Set the head of the tap `outlier`; nothing where the network has none.

    Args:
        vae: a trained network, in eval mode.
        scans: the scans it was trained on.
        settings: settings that their windows are drawn with; one view of each.
        windows: number of windows to draw.
    """
    if not isinstance(vae, PooledVae) or vae.outlier is None:
        return
    readings = list(drawn_readings(vae, scans, settings, windows))
    inside, outside = (torch.cat([part.flatten(0, -2) for part in parts]) for parts in zip(*readings, strict=True))
    weight, bias = fitted(inside, outside)
    vae.outlier.weight.zero_()
    vae.outlier.weight[0, vae.content_readings.to(vae.outlier.weight.device)] = weight.to(vae.outlier.weight)
    vae.outlier.bias.fill_(bias)


@torch.no_grad()
def drawn_readings(
    vae: PooledVae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the pooled values that the heads read of drawn windows, and of outliers made of them, in the draws' order.

    Args:
        vae: in eval mode.
        scans: to draw from.
        settings: as for `learn_outliers`.
        windows: number of windows to draw.

    Yields:
        (n, values) and (kinds of outliers, n, values), float64, on the CPU.
    """
    device = next(vae.parameters()).device
    rng = np.random.default_rng(np.random.SeedSequence((settings.seed, _STREAM)))
    for seen, _ in drawn_views(vae, scans, replace(settings.of_one_view, tile=0.0), windows):
        inside = slabs(seen[:, 0].cpu().numpy(), rng)
        each = (torch.from_numpy(one[:, None]).to(device) for one in (inside, *made_up(inside, rng).values()))
        read = torch.stack([vae.content(one).double().cpu() for one in each])
        yield read[0], read[1:]


def fitted(inside: Tensor, outside: Tensor) -> tuple[Tensor, float]:
    """Return weight (values,) and bias of a logistic regression: the logarithm of the odds of being outside.

    Args:
        inside: readings of windows of patients, (n, values), float64.
        outside: readings of others, (m, values); both count as much.
    """
    mean, deviation = inside.mean(0), inside.std(0).clamp_min(LEAST_DEVIATION)
    read = (torch.cat([inside, outside]) - mean) / deviation
    read = torch.cat([read, read.new_ones(len(read), 1)], 1)
    n, m = len(inside), len(outside)
    is_outside = torch.cat([read.new_zeros(n), read.new_ones(m)])
    counts = torch.cat([read.new_full((n,), 0.5 / n), read.new_full((m,), 0.5 / m)])
    ridge = read.new_full((read.shape[1],), RIDGE)
    ridge[-1] = 0.0

    def loss(head: Tensor) -> float:
        entropy = functional.binary_cross_entropy_with_logits(read @ head, is_outside, reduction="none")
        return float(counts @ entropy + ridge @ head.square())

    head = read.new_zeros(read.shape[1])
    for _ in range(_MOST_STEPS):  # Newton's, each halved until it descends
        share = torch.sigmoid(read @ head)
        slope = read.T @ (counts * (share - is_outside)) + 2 * ridge * head
        curved = (read.T * (counts * share * (1 - share))) @ read + torch.diag(2 * ridge)
        step, before = torch.linalg.solve(curved, slope), loss(head)
        while loss(head - step) > before and float(step.abs().max()) > _SETTLED:
            step = step / 2
        head = head - step
        if float(step.abs().max()) <= _SETTLED:
            break
    weight = head[:-1] / deviation
    return weight, float(head[-1] - weight @ mean)


def slabs(windows: Windows, rng: np.random.Generator) -> Windows:
    """Return windows (n, d, h, w); a third of them hold but a part of their slices, as a short scan does."""
    made, depth = windows.copy(), windows.shape[1]
    for window in made:
        kept = round(depth * rng.uniform(0.25, 1.0))
        first = int(rng.integers(depth - kept + 1))
        if rng.random() < 1 / 3:
            window[:first] = window[first + kept :] = 0
    return made


def made_up(windows: Windows, rng: np.random.Generator) -> Mapping[str, Windows]:
    """Return outliers made of windows (n, d, h, w) in [0, 1], by what was done, and as many shapes: (n, d, h, w) each.

    Wrong HU (shifted by 100 to 1000 HU in a range of 2000, stretched, inverted), and objects without anatomy. Slices
    along another axis were tried too: a thin slab of a chest then counts as an outlier, and hides the others.
    """
    n, size = len(windows), windows.shape[1:]
    sign, wide = rng.choice([-1.0, 1.0], (n, 1, 1, 1)), (n, 1, 1, 1)
    shift, stretch = sign * rng.uniform(0.05, 0.5, wide), rng.choice([0.5, 0.7, 1.4, 2.0], wide)
    made = {
        "shifted": np.clip(windows + shift, 0, 1),
        "stretched": np.clip(0.5 + (windows - 0.5) * stretch, 0, 1),
        "inverted": 1 - windows,
        "shapes": np.stack([shape(size, rng) for _ in range(n)]),
    }
    return {name: np.ascontiguousarray(one, np.float32) for name, one in made.items()}


def shape(size: tuple[int, int, int], rng: np.random.Generator) -> Windows:
    """Return an object without anatomy in air, (d, h, w): a cylinder or an ellipsoid with inserts, some with a shell.

    Its interior is between -120 and 400 HU, in a range from -1000 to 1000, its shell denser.
    """
    depth, height, width = size
    z, y, x = np.ogrid[:depth, :height, :width]
    middle_y, middle_x = height * rng.uniform(0.375, 0.625), width * rng.uniform(0.375, 0.625)
    half_y = height * rng.uniform(0.1, 0.42)
    half_x = half_y * width / height * rng.uniform(0.8, 1.25) if rng.random() < 0.5 else width * rng.uniform(0.1, 0.42)
    radius = ((y - middle_y) / half_y) ** 2 + ((x - middle_x) / half_x) ** 2
    if rng.random() < 0.4:
        radius = radius + ((z - depth * rng.uniform(0.25, 0.75)) / (depth * rng.uniform(0.3, 1.9))) ** 2
    inner, made = radius < 0.8, np.zeros(size)
    made += np.where(radius <= 1, _of_hu(rng.uniform(-120, 400)), 0)
    if rng.random() < 0.6:
        made = np.where((radius <= 1) & (radius > rng.uniform(0.7, 0.95)), _of_hu(rng.uniform(200, 1200)), made)
    for _ in range(rng.integers(9)):
        at_y, at_x = middle_y + rng.uniform(-0.7, 0.7) * half_y, middle_x + rng.uniform(-0.7, 0.7) * half_x
        hole = inner & ((y - at_y) ** 2 + (x - at_x) ** 2 <= (height * rng.uniform(0.016, 0.083)) ** 2)
        made = np.where(hole, _of_hu(rng.choice([-1000, -100, 50, 150, 350, 800]) + 20 * rng.normal()), made)
    made += (made > 0) * rng.normal(0, rng.uniform(0, 0.02), size)
    return np.asarray(np.clip(made, 0, 1), np.float32)


def _of_hu(hu: float) -> float:
    return (hu + 1000) / 2000
