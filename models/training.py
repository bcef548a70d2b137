"""Training a VAE on windows: the loop, and what is measured on held-out windows. Knows arrays, not DICOM."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.losses import active_units, free_bits, gaussian_nll, kl_divergence
from models.network import Vae
from models.vae import build_vae

logger = logging.getLogger(__name__)

WindowArray = NDArray[np.floating[Any]]

BODY_FROM_HU = -500.0
_WATCHED_WINDOWS = 512


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How a network is trained.

    Attributes:
        architecture: one of `models.vae.ARCHITECTURES`.
        parameters: of that architecture, where they are not its defaults.
        minutes: of wall-clock time; or else
        steps: of the optimiser. The learning rate and the KL's weight follow whichever of the two is given.
        kl_warmup: part of the training over which the KL's weight rises from 0 to 1.
        free_bits_nats: a dimension's KL is not pushed below it.
        noise: standard deviation, at most, of the noise added to the input (not to the target), of the [0, 1] range.
        gain: the input and the target are scaled by 1 ± at most this.
        bfloat16: run the network in bfloat16, its weights and the losses stay in float32: faster on CPUs with AMX.
        threads: of torch on the CPU.
    """

    architecture: str = "ct_vae"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    minutes: float | None = None
    steps: int | None = None
    batch: int = 16
    learning_rate: float = 2e-3
    kl_warmup: float = 0.1
    free_bits_nats: float = 0.05
    noise: float = 0.02
    gain: float = 0.02
    bfloat16: bool = False
    threads: int = 2

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("training needs either minutes or steps")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the training stands: means over the steps since the last report, KL and rmse a window."""

    step: int
    fraction: float
    elapsed_s: float
    loss: float
    rmse: float
    kl: float
    active: int
    latents: int


@dataclass(frozen=True, slots=True)
class Trained:
    """The network, in eval mode, and how it got there."""

    vae: Vae
    steps: int
    elapsed_s: float
    history: tuple[Progress, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured on windows that training did not see.

    Attributes:
        windows: how many.
        mae_hu: mean absolute error of the reconstruction from mu, over all voxels, the padding's air too.
        mae_body_hu: the same over the voxels above -500 HU.
        active: dimensions whose mu varies by more than 0.01 over these windows.
        kl: mean KL by dimension, nats.
        mu_variance: variance of mu by dimension.
    """

    windows: int
    mae_hu: float
    mae_body_hu: float
    active: int
    kl: tuple[float, ...]
    mu_variance: tuple[float, ...]


def train(
    scans: Sequence[WindowArray],
    settings: TrainingSettings,
    report: Callable[[Progress], None] = lambda _: None,
    *,
    report_every_s: float = 5.0,
) -> Trained:
    """Train a network from its seed.

    Args:
        scans: windows in [0, 1], (n, D, H, W) each; at least as large as the network's, which is cut out of them at a
            random place: the augmentation by a shift. They may be memory-mapped.
        settings: how.
        report: called with the progress every few seconds and at the end.
        report_every_s: how many.
    """
    with _threads_and_seed(settings):
        vae = build_vae(settings.architecture, settings.parameters).train()
        optimiser = torch.optim.AdamW(vae.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
        batches = _batches(scans, vae.window_voxels, settings)
        watch = _Watch(report, report_every_s)
        start, step, fraction = time.monotonic(), 0, 0.0
        while fraction < 1:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(fraction, settings.learning_rate)
            weight = min(1.0, fraction / settings.kl_warmup) if settings.kl_warmup > 0 else 1.0
            watch.add(*_step(vae, optimiser, *next(batches), weight, settings))
            step, elapsed = step + 1, time.monotonic() - start
            fraction = step / settings.steps if settings.steps else elapsed / (60 * (settings.minutes or 0) or 1e-9)
            watch.tick(step, min(fraction, 1.0), elapsed)
        return Trained(vae.eval(), step, time.monotonic() - start, tuple(watch.history))


def learning_rate(fraction: float, peak: float) -> float:
    """Up linearly over the first twentieth of the training, then down along a cosine to a hundredth of the peak."""
    if fraction < 0.05:
        return peak * (0.01 + 0.99 * fraction / 0.05)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (fraction - 0.05) / 0.95))))


def evaluate(vae: Vae, windows: WindowArray, window_hu: tuple[float, float], *, threads: int = 2) -> Figures:
    """Measure a network on windows (n, d, h, w) of its own size, one after the other, from mu, without noise."""
    low, high = window_hu
    mus, kls, error, body_error, body_voxels = [], [], 0.0, 0.0, 0
    with torch.no_grad(), _threads_and_seed(TrainingSettings(steps=1, threads=threads)):
        for window in windows:
            x = torch.from_numpy(np.asarray(window, np.float32))[None, None]
            mu, logvar = vae.eval().encode(x)
            difference = (vae.decode(mu).clamp(0, 1) - x).abs().double() * (high - low)
            body = x * (high - low) + low > BODY_FROM_HU
            error += float(difference.mean())
            body_error, body_voxels = body_error + float(difference[body].sum()), body_voxels + int(body.sum())
            mus.append(mu)
            kls.append(kl_divergence(mu, logvar))
    mu = torch.cat(mus)
    return Figures(
        windows=len(mus),
        mae_hu=error / len(mus),
        mae_body_hu=body_error / max(body_voxels, 1),
        active=active_units(mu),
        kl=tuple(torch.cat(kls).mean(0).tolist()),
        mu_variance=tuple(torch.var(mu, dim=0, correction=0).tolist()),
    )


def _step(
    vae: Vae,
    optimiser: torch.optim.Optimizer,
    seen: Tensor,
    target: Tensor,
    kl_weight: float,
    settings: TrainingSettings,
) -> tuple[float, float, float, Tensor]:
    """One step; (loss, rmse, KL, mu)."""
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
        mu, logvar = (head.float() for head in vae.encode(seen))
        reconstruction = vae.decode(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)).float()
    kl = kl_divergence(mu, logvar)
    voxels = target[0].numel()
    loss = (gaussian_nll(reconstruction, target) + kl_weight * free_bits(kl, settings.free_bits_nats)) / voxels
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    optimiser.step()
    with torch.no_grad():
        rmse = (reconstruction - target).square().mean().sqrt()
        return loss.item(), rmse.item(), kl.sum(1).mean().item(), mu.detach()


def _batches(
    scans: Sequence[WindowArray], size: tuple[int, int, int], settings: TrainingSettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (input, target), (batch, 1, d, h, w): each window once an epoch, cut at a random place."""
    rng = np.random.default_rng(settings.seed)
    places = [(scan, window) for scan, windows in enumerate(scans) for window in range(len(windows))]
    queue: list[int] = []
    while True:
        while len(queue) < settings.batch:
            queue += rng.permutation(len(places)).tolist()
        chosen, queue = queue[: settings.batch], queue[settings.batch :]
        target = np.empty((settings.batch, 1, *size), np.float32)
        for row, index in enumerate(chosen):
            scan, window = places[index]
            whole = scans[scan][window]
            z, y, x = (int(rng.integers(0, have - want + 1)) for have, want in zip(whole.shape, size, strict=True))
            target[row, 0] = whole[z : z + size[0], y : y + size[1], x : x + size[2]]
        target *= rng.uniform(1 - settings.gain, 1 + settings.gain, (settings.batch, 1, 1, 1, 1)).astype(np.float32)
        np.clip(target, 0, 1, out=target)
        spread = torch.from_numpy(rng.uniform(0, settings.noise, (settings.batch, 1, 1, 1, 1)).astype(np.float32))
        clean = torch.from_numpy(target)
        yield (clean + spread * torch.randn_like(clean)).clamp_(0, 1), clean


class _Watch:
    """Means since the last report, and an eye on collapse."""

    def __init__(self, report: Callable[[Progress], None], every_s: float) -> None:
        self.history: list[Progress] = []
        self._report, self._every_s, self._last_s, self._warned = report, every_s, 0.0, False
        self._sums: list[tuple[float, float, float]] = []
        self._mus: deque[Tensor] = deque()

    def add(self, loss: float, rmse: float, kl: float, mu: Tensor) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError("training diverged: the loss is not finite; lower the learning rate")
        self._sums.append((loss, rmse, kl))
        self._mus.append(mu)
        while sum(map(len, self._mus)) > _WATCHED_WINDOWS:
            self._mus.popleft()

    def tick(self, step: int, fraction: float, elapsed_s: float) -> None:
        if elapsed_s - self._last_s < self._every_s and fraction < 1:
            return
        mu = torch.cat(tuple(self._mus))
        loss, rmse, kl = np.mean(self._sums, axis=0).tolist()
        now = Progress(step, fraction, elapsed_s, loss, rmse, kl, active_units(mu), mu.shape[1])
        self.history.append(now)
        self._sums.clear()
        self._last_s = elapsed_s
        if fraction > 0.2 and 2 * now.active < now.latents and not self._warned:
            self._warned = True
            logger.warning("posterior collapse: %d of %d units active after step %d", now.active, now.latents, step)
        self._report(now)


@contextmanager
def _threads_and_seed(settings: TrainingSettings) -> Iterator[None]:
    """Torch's random state and threads as the settings say, and as they were before when it ends."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
