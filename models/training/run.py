"""A training in progress: its steps, its checks, and its state in a checkpoint."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.networks.registry import build_vae
from models.networks.vae import Vae
from models.training.augment import cut_windows, make_views, margin_voxels, window_places
from models.training.bank import Bank, bank_from, bank_of
from models.training.checkpoint import CheckpointError, digest_of, save_checkpoint
from models.training.draws import Augmentation, draw_augmentation
from models.training.learning_rate import learning_rate
from models.training.losses import kl_warmup
from models.training.objective import (
    Codes,
    LossInputs,
    Parts,
    Passed,
    VaeForward,
    described,
    make_loss_inputs,
    objective,
)
from models.training.progress import StepLog
from models.training.settings import TrainingSettings
from models.training.settled import begin_at_components
from models.training.state import TrainingIdentity, TrainingState

if TYPE_CHECKING:
    from lightning.fabric import Fabric

WindowArray = NDArray[np.floating[Any]]
Batch = tuple[list[Augmentation], Tensor]
"""The draws, and the windows cut out."""

_CHECKS = 50
_CALIBRATION_WINDOWS = 128


class TrainingRun:
    """What a step needs and changes.

    Attributes:
        vae: the network being trained, on the device.
        measured: the same, or the moving average of its weights.
        fraction: fraction of the training that is done.
        ended: whether the calibration windows ended it.
    """

    def __init__(
        self,
        fabric: Fabric,
        scans: Sequence[WindowArray],
        settings: TrainingSettings,
        calibration: Sequence[WindowArray],
        start: Vae | None,
        log: StepLog,
    ) -> None:
        self.fabric, self.settings, self.scans, self.log = fabric, settings, scans, log
        vae = build_vae(settings.architecture, settings.parameters) if start is None else copy.deepcopy(start)
        self.size = vae.window_voxels
        _check_sizes(scans, calibration, self.size)
        with torch.no_grad():
            self.latents = vae.eval().encode(torch.zeros(1, 1, *self.size))[0].numel()
        self.identity = TrainingIdentity(
            settings=json.loads(json.dumps(asdict(settings))),
            data=digest_of(scans, start.state_dict() if start is not None else None),
            torch=torch.__version__,
        )
        self.places = window_places(scans)
        self.checked = _evenly(calibration, _CALIBRATION_WINDOWS)
        if fabric.device.type == "cuda":
            # The layout that cuDNN's bfloat16 convolutions prefer.
            vae = vae.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.vae = vae.train()
        optimiser = torch.optim.AdamW(vae.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
        self.forward = VaeForward(vae, describe=settings.feature_weight > 0)
        self.network, self.optimiser = fabric.setup(self.forward, optimiser)
        self.measured = copy.deepcopy(vae).requires_grad_(False) if settings.ema else vae
        self.step, self.elapsed_s, self.fraction = 0, 0.0, 0.0
        self.ended: Literal["finished", "early"] = "finished"
        self.calibrated: float | None = None
        self.best: dict[str, Tensor] = {}
        self.bank: Bank | None = None
        self.best_loss, self.worse = math.inf, 0

    @property
    def finished(self) -> bool:
        """Whether the training is over."""
        return self.fraction >= 1 or self.ended == "early"

    def batches(self) -> Generator[Batch]:
        """Yield this process's part of each batch from here on; the next is read while the network works on one."""
        batch, share = self.settings.batch, self.settings.batch // self.fabric.world_size
        first = self.step * self.settings.accumulate * batch + self.fabric.global_rank * share
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._read, first, share)
            while True:
                first += batch
                ready, ahead = ahead, reader.submit(self._read, first, share)
                yield ready.result()

    def advance(self, batches: Iterator[Batch]) -> None:
        """Take one step of the optimiser."""
        if self._learning_trunk() and self.fraction >= self.settings.trunk_until:
            self._settle()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.fraction, self.settings.learning_rate)
        passes = self.settings.accumulate
        self.optimiser.zero_grad(set_to_none=True)
        summed = torch.zeros((), device=self.fabric.device)
        for turn in range(passes):
            with self.fabric.no_backward_sync(self.network, enabled=turn + 1 < passes):
                rows, parts = self._pass(*next(batches))
                self.fabric.backward(parts.loss / passes)
            flat = torch.cat([torch.stack(parts[:-1]).detach(), parts.kl_by_dimension.detach()])
            summed = summed + flat / passes
        self.step += 1
        gradients = {name: weight.grad for name, weight in self.vae.named_parameters() if weight.grad is not None}
        self.log.add(summed, rows.mu.detach(), gradients)
        if self.fabric.device.type == "cpu":
            self.log.check()
        self.fabric.clip_gradients(self.network, self.optimiser, max_norm=1.0, error_if_nonfinite=False)
        self.optimiser.step()
        if self.measured is not self.vae:
            self._average()

    def tick(self, elapsed_s: float, interrupted: bool) -> bool:
        """Update the time; when due, measure calibration windows and report; return whether any process must stop.

        All processes take the longest of their times, and stop together.
        """
        if self.fabric.world_size > 1:
            mine = torch.tensor([elapsed_s, float(interrupted)], dtype=torch.float64, device=self.fabric.device)
            elapsed_s, stop = over_all(self.fabric, mine, "max").tolist()
            interrupted = stop > 0
        before, self.elapsed_s = self.fraction, elapsed_s
        minutes, steps = self.settings.minutes, self.settings.steps
        self.fraction = min(1.0, self.step / steps if steps else elapsed_s / (60 * (minutes or 0)))
        if self.checked is not None and math.floor(before * _CHECKS) < math.floor(self.fraction * _CHECKS):
            self._calibrate()
        self.log.tick(
            self.step,
            self.fraction,
            elapsed_s,
            kl_weight=self._kl_weight(),
            learning_rate=self.optimiser.param_groups[0]["lr"],
            calibration=self.calibrated,
            last=self.finished,
        )
        return interrupted

    def result(self) -> Vae:
        """Return a copy of the network in its final form: averaged or best as set, in eval mode, on the CPU."""
        vae = copy.deepcopy(self.measured)
        if self.best and self.finished:
            vae.load_state_dict(self.best)
        return vae.cpu().to(memory_format=torch.contiguous_format).eval().requires_grad_(True)  # type: ignore[call-overload, no-any-return]

    def save(self, path: Path) -> None:
        """Write the checkpoint, in the process of rank 0.

        Raises:
            FloatingPointError: a loss, a gradient or a weight is not finite.
        """
        self.log.check()
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self.vae.state_dict().values()):
            raise FloatingPointError("training diverged: a weight is not finite; lower the learning rate")
        if self.fabric.global_rank == 0:
            state = self.state()
            save_checkpoint(path, state.tensors, state.plain())

    def state(self) -> TrainingState:
        """Return the state of the training; once it is finished, only what its result is made of."""
        tensors = {f"vae/{name}": tensor for name, tensor in self.vae.state_dict().items()}
        if self.measured is not self.vae:
            tensors |= {f"average/{name}": tensor for name, tensor in self.measured.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        if not self.finished:
            if self.bank is not None:
                tensors |= {f"bank/{name}": tensor for name, tensor in self.bank.tensors().items()}
            for number, moments in self.optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser/{number}/{name}": tensor for name, tensor in moments.items()}
        return TrainingState(
            identity=self.identity,
            tensors=tensors,
            step=self.step,
            elapsed_s=self.elapsed_s,
            fraction=self.fraction,
            ended=self.ended,
            calibrated=self.calibrated,
            best_loss=self.best_loss if self.best else None,
            worse=self.worse,
            history=tuple(self.log.history),
        )

    def restore(self, state: TrainingState) -> None:
        """Continue from a state.

        Raises:
            CheckpointError: its tensors do not fit this network.
        """
        moments: dict[int, dict[str, Tensor]] = {}
        try:
            self.vae.load_state_dict(state.under("vae/"))
            if self.measured is not self.vae:
                self.measured.load_state_dict(state.under("average/"))
            for key, tensor in state.under("optimiser/").items():
                number, name = key.split("/")
                moments.setdefault(int(number), {})[name] = tensor
            groups = self.optimiser.state_dict()["param_groups"]
            self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError("the checkpoint does not fit this network; remove it to train anew") from error
        self.best = state.under("best/")
        self.forward.settled = bool(state.under("bank/"))
        self.bank = bank_from({name: tensor.to(self.fabric.device) for name, tensor in state.under("bank/").items()})
        self.best_loss = math.inf if state.best_loss is None else state.best_loss
        self.step, self.worse, self.ended = state.step, state.worse, state.ended
        self.elapsed_s, self.fraction, self.calibrated = state.elapsed_s, state.fraction, state.calibrated
        self.log.resume(list(state.history))

    def _read(self, first: int, share: int) -> Batch:
        numbers = range(first, first + share)
        draws = [
            draw_augmentation(self.settings, self.size, self.latents, len(self.places), number) for number in numbers
        ]
        return draws, cut_windows(self.scans, self.places, draws, self.size, margin_voxels(self.settings))

    def _pass(self, draws: list[Augmentation], cut_out: Tensor) -> tuple[LossInputs, Parts]:
        device = self.fabric.device
        if device.type == "cuda":
            cut_out = cut_out.pin_memory()
        seen, target = make_views(cut_out.to(device, non_blocking=True), draws, self.size, self.settings)
        epsilon = torch.from_numpy(np.stack([drawn.epsilon for drawn in draws])).to(device, non_blocking=True)
        passed: Passed = self.network(seen, epsilon, None if self.bank is None else self.bank.views())
        mine = make_loss_inputs(passed, target, self.settings, self.vae)
        rows, kept = self._gathered(mine), self._kept(passed)
        if self.forward.settled:
            self._keep(passed, epsilon, mine.group)
        return rows, self._objective(rows, self.terms(), self._kl_weight(), kept)

    def terms(self) -> TrainingSettings:
        """Return the settings of the loss now: the terms on all codes together wait until the trunk stays."""
        if not self._learning_trunk():
            return self.settings
        scale = "between" if self.settings.invariance_scale == "whitened" else self.settings.invariance_scale
        return replace(self.settings, aggregate=0.0, mmd=0.0, invariance_scale=scale)

    def _learning_trunk(self) -> bool:
        return self.settings.trunk_until < 1 and not self.forward.settled

    def _settle(self) -> None:
        """Keep the trunk, that of the averaged weights, from here on, and start the heads anew."""
        vae = copy.deepcopy(self.measured).eval()
        begin_at_components(vae, self.scans, self.settings)
        weights = {name: self.fabric.broadcast(tensor) for name, tensor in vae.state_dict().items()}
        for network in (self.vae, self.measured):
            network.load_state_dict(weights)
        self.optimiser.optimizer.state.clear()
        self.forward.settled = True
        self.best, self.best_loss, self.worse = {}, math.inf, 0

    def _objective(
        self, rows: LossInputs, settings: TrainingSettings, kl_weight: float, kept: Codes | None = None
    ) -> Parts:
        voxels, dataset = math.prod(self.size), len(self.places)
        return objective(rows, settings, voxels=voxels, kl_weight=kl_weight, dataset=dataset, kept=kept)

    def _kept(self, passed: Passed) -> Codes | None:
        """Return the codes of the bank, as the heads of this step make them."""
        if self.bank is None or passed.kept_mu is None or passed.kept_logvar is None:
            return None
        return self.bank.codes(passed.kept_mu, passed.kept_logvar)

    def _keep(self, passed: Passed, epsilon: Tensor, group: Tensor) -> None:
        """Add the batch of all processes to the bank."""
        assert passed.read is not None
        newest = bank_of(passed.read, epsilon, group)
        if self.fabric.world_size > 1:
            newest = Bank(*(all_rows(self.fabric, one) for one in newest.tensors().values()))
        self.bank = newest if self.bank is None else self.bank.with_newest(newest, self.settings.bank)

    def _gathered(self, rows: LossInputs) -> LossInputs:
        """Return the rows of all processes.

        Each process then has the same loss, and a gradient that is `world_size` times its own part, of which
        DistributedDataParallel takes the mean: together the gradient of a single process.
        """
        if self.fabric.world_size == 1:
            return rows
        gathered = {}
        for name, mine in rows.tensors().items():
            if mine.shape[1] == 0:
                gathered[name] = mine.repeat(self.fabric.world_size, 1)
                continue
            gathered[name] = all_rows(self.fabric, mine, sync_grads=True)
        return LossInputs(**gathered)

    def _kl_weight(self) -> float:
        return kl_warmup(self.fraction, self.settings.kl_warmup, self.settings.beta)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        pairs = zip(self.measured.state_dict().values(), self.vae.state_dict().values(), strict=True)
        for average, now in pairs:
            average.lerp_(now, 1 - decay) if average.is_floating_point() else average.copy_(now)

    @torch.no_grad()
    def _calibrate(self) -> None:
        """Measure the loss on the calibration windows, from mu, with the KL's full weight."""
        assert self.checked is not None
        plain = replace(self.settings.of_one_view, penalty="none", penalty_weight=0.0, aggregate=0.0, mmd=0.0)
        rows = []
        self.measured.eval()
        for windows in torch.split(self.checked, 16):
            target = windows[:, None].to(self.fabric.device, torch.float32)
            with self.fabric.autocast():
                mu, logvar = self.measured.encode(target)
                passed = Passed(mu, logvar, mu, self.measured.decode(mu), described(self.measured, mu))
            rows.append(make_loss_inputs(passed, target, plain, self.measured))
        self.vae.train()
        loss = self._objective(LossInputs.joined(rows), plain, self.settings.beta).loss.item()
        self.calibrated = float(self.fabric.broadcast(loss)) if self.fabric.world_size > 1 else loss
        if not self.settings.patience or self.fraction < self.settings.kl_warmup or self._learning_trunk():
            return
        if self.calibrated < self.best_loss:
            self.best_loss, self.worse = self.calibrated, 0
            self.best = {name: tensor.cpu().clone() for name, tensor in self.measured.state_dict().items()}
        else:
            self.worse += 1
        if self.worse >= self.settings.patience:
            self.ended = "early"


def all_rows(fabric: Fabric, mine: Tensor, *, sync_grads: bool = False) -> Tensor:
    """Return the rows of all processes."""
    gathered = fabric.all_gather(mine, sync_grads=sync_grads)
    assert isinstance(gathered, Tensor)
    return gathered.flatten(0, 1)


def over_all(fabric: Fabric, values: Tensor, how: Literal["max", "mean"]) -> Tensor:
    """Return the maximum or mean over all processes, element by element."""
    reduced = fabric.all_reduce(values, reduce_op=how)
    assert isinstance(reduced, Tensor)
    return reduced


def _check_sizes(scans: Sequence[WindowArray], calibration: Sequence[WindowArray], size: tuple[int, int, int]) -> None:
    if not any(len(windows) for windows in scans):
        raise ValueError("there is no window to train on")
    for windows in scans:
        if windows.ndim != 4 or any(have < want for have, want in zip(windows.shape[1:], size, strict=True)):
            raise ValueError(f"windows of {windows.shape[1:]} voxels; expected at least the network's {size}")
    for windows in calibration:
        if windows.shape[1:] != size:
            raise ValueError(f"calibration windows of {windows.shape[1:]} voxels; expected the network's {size}")


def _evenly(scans: Sequence[WindowArray], most: int) -> Tensor | None:
    """Return at most this many windows, (n, d, h, w), evenly spaced over all; None without any."""
    places = window_places(scans)
    if not places:
        return None
    chosen = np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int)
    return torch.from_numpy(np.stack([scans[places[i][0]][places[i][1]] for i in chosen]))
