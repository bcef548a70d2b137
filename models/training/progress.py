"""The state of a training, and a watch for posterior collapse and divergence while it runs."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.statistics.collapse import measure_collapse
from models.statistics.units import active_units

logger = logging.getLogger(__name__)

_WATCHED_WINDOWS = 512
_MOST_LATENTS = 1024


@dataclass(frozen=True, slots=True)
class Progress:
    """State of the training: means over the steps since the last report, per window unless stated otherwise.

    Attributes:
        loss: the quantity being minimised, per voxel.
        nll: negative log-likelihood of the voxels, nats.
        rmse: of the reconstruction, in the [0, 1] range.
        kl: nats, summed over the dimensions.
        kl_by_dimension: nats; empty for a latent of more than 1024 dimensions.
        penalty: the penalty in the settings, before its weight.
        invariance: the pair term before its weight.
        features: likelihood of the block statistics before its weight, nats per value.
        aggregate: divergence of all codes together from the prior before its weight, nats per dimension.
        active: number of dimensions whose mu varies over the last windows by more than 0.01.
        calibration: loss on the calibration windows when last measured, per voxel.
    """

    step: int
    fraction: float
    elapsed_s: float
    loss: float
    rmse: float
    kl: float
    active: int
    latents: int
    nll: float = 0.0
    penalty: float = 0.0
    invariance: float = 0.0
    features: float = 0.0
    aggregate: float = 0.0
    kl_weight: float = 1.0
    learning_rate: float = 0.0
    calibration: float | None = None
    kl_by_dimension: tuple[float, ...] = ()

    def line(self) -> str:
        """Return the state in one line, for a person who watches."""
        calibration = "" if self.calibration is None else f"  calibration {self.calibration:.4f}"
        return (
            f"step {self.step}  loss {self.loss:.4f}{calibration}  rmse {self.rmse:.4f}  KL {self.kl:.1f} nats  "
            f"active {self.active} of {self.latents}"
        )


class StepLog:
    """Means since the last report, and a watch for collapse."""

    def __init__(
        self, report: Callable[[Progress], None], every_s: float, *, patients: int = 0, free_bits_nats: float = 0.0
    ) -> None:
        """Start a log.

        Args:
            report: called with each report.
            every_s: interval between reports in seconds.
            patients: number of patients of the windows; with too few, there is no warning of a collapse.
            free_bits_nats: from the training's settings.
        """
        self.history: list[Progress] = []
        self._report, self._every_s, self._warned = report, every_s, False
        self._patients, self._free_bits_nats = patients, free_bits_nats
        self._last_s = 0.0
        self._parts: list[Tensor] = []
        self._unchecked: list[tuple[Tensor, Mapping[str, Tensor]]] = []
        self._mus: deque[Tensor] = deque()

    def resume(self, history: list[Progress]) -> None:
        """Continue after what an earlier part of the training reported."""
        self.history = history
        self._last_s = history[-1].elapsed_s if history else 0.0

    def add(self, parts: Tensor, mu: Tensor, gradients: Mapping[str, Tensor]) -> None:
        """Record a step: the parts (8 + latents,) of its loss, ordered as in `objective.Parts`; mu; its gradients."""
        self._parts.append(parts)
        finite = {name: torch.linalg.vector_norm(gradient).isfinite() for name, gradient in gradients.items()}
        self._unchecked.append((parts[0], finite))
        self._mus.append(mu)
        while len(self._mus) > 1 and sum(map(len, self._mus)) > _WATCHED_WINDOWS:
            self._mus.popleft()

    def check(self) -> None:
        """Check that loss and gradients of the steps since the last check are finite; waits for a GPU.

        Raises:
            FloatingPointError: one of them is not; the message names the first.
        """
        for loss, finite in self._unchecked:
            if not math.isfinite(loss.item()):
                raise FloatingPointError("training diverged: the loss is not finite; lower the learning rate")
            if not torch.stack(list(finite.values())).all():
                name = next(name for name, flag in finite.items() if not flag)
                raise FloatingPointError(
                    f"training stopped: the gradient of {name} is not finite, although the loss is; the precision or "
                    "the arithmetic of this device is the likely cause, not the learning rate"
                )
        self._unchecked.clear()

    def tick(
        self,
        step: int,
        fraction: float,
        elapsed_s: float,
        *,
        kl_weight: float,
        learning_rate: float,
        calibration: float | None,
        last: bool,
    ) -> None:
        """Report if it is time, or if this is the last step."""
        if not self._parts or (elapsed_s - self._last_s < self._every_s and not last):
            return
        self.check()
        loss, nll, rmse, kl, penalty, pairs, features, aggregate, *by_dimension = (
            torch.stack(self._parts).mean(0).tolist()
        )
        now = Progress(
            step=step,
            fraction=fraction,
            elapsed_s=elapsed_s,
            loss=loss,
            rmse=rmse,
            kl=kl,
            active=active_units(torch.cat(tuple(self._mus)).cpu().numpy()),
            latents=len(by_dimension),
            nll=nll,
            penalty=penalty,
            invariance=pairs,
            features=features,
            aggregate=aggregate,
            kl_weight=kl_weight,
            learning_rate=learning_rate,
            calibration=calibration,
            kl_by_dimension=tuple(by_dimension) if len(by_dimension) <= _MOST_LATENTS else (),
        )
        self.history.append(now)
        self._parts.clear()
        self._last_s = elapsed_s
        if fraction > 0.2 and not self._warned:
            self._warn_of_collapse(by_dimension, step)
        self._report(now)

    def _warn_of_collapse(self, kl: list[float], step: int) -> None:
        mu = torch.cat(tuple(self._mus))
        variance = torch.var(mu, dim=0, correction=0).tolist()
        found = measure_collapse(
            kl, variance, windows=len(mu), patients=self._patients, free_bits_nats=self._free_bits_nats
        )
        if found.collapsed:
            self._warned = True
            text = "posterior collapse: %d of %d dimensions are unused after step %d (low KL, low variance of mu)"
            logger.warning(text, found.unused, found.units, step)
