"""Training a VAE on windows: the loop, on one processor or many machines. Knows no DICOM."""

from __future__ import annotations

import ctypes
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from models.networks.vae import Vae
from models.training.checkpoint import CheckpointError, load_checkpoint
from models.training.evaluate import evaluate, threads_and_seed
from models.training.last_steps import check_last_steps, last_steps, parameters_of
from models.training.progress import Progress, StepLog
from models.training.run import TrainingRun, over_all
from models.training.settings import TrainingSettings
from models.training.state import read_state

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = [
    "CheckpointError",
    "Progress",
    "Trained",
    "TrainingInterrupted",
    "TrainingSettings",
    "evaluate",
    "train",
]

WindowArray = NDArray[np.floating[Any]]
logger = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # from malloc.h


@dataclass(frozen=True, slots=True)
class Trained:
    """The network, in eval mode and on the CPU, and how it was obtained.

    Attributes:
        parameters: those that build this network; the training's, unless it ended with fewer latents.
        ended: `finished`, or `early` where the calibration windows stopped improving. With patience, the network is
            that of the best check in either case.
        rank: rank of this process; only rank 0 should write.
    """

    vae: Vae
    parameters: Mapping[str, Any]
    steps: int
    elapsed_s: float
    history: tuple[Progress, ...]
    ended: Literal["finished", "early"] = "finished"
    rank: int = 0


class TrainingInterrupted(Exception):
    """SIGTERM or Ctrl-C arrived; the message is one line and states the training's progress."""


def train(
    scans: Sequence[WindowArray],
    settings: TrainingSettings,
    report: Callable[[Progress], None] = lambda _: None,
    *,
    report_every_s: float = 5.0,
    calibration: Sequence[WindowArray] = (),
    start: Vae | None = None,
    patients: int | None = None,
    phantoms: int = 0,
    pictures: Callable[[Vae, int], None] = lambda vae, step: None,
    pictures_every_s: float = 300.0,
    announce: Callable[[str], None] = lambda text: None,
    checkpoint: Path | None = None,
    checkpoint_every_s: float = 30.0,
) -> Trained:
    """Train a network from its seed.

    With more than one device or node, Fabric starts this same command again for each further device of a machine; each
    process must get here with the same arguments. `torchrun` and SLURM are supported too.

    Args:
        scans: windows in [0, 1], (n, D, H, W) each; at least as large as the network's, which is cut out of them at a
            random place: augmentation by a shift. They may be memory-mapped.
        settings: how to train.
        report: called with the progress at intervals and at the end, in the process of rank 0.
        report_every_s: interval between reports in seconds.
        calibration: windows of the network's own size, (n, d, h, w) each, that training does not see: measured 50 times
            per training, at most 128 of them, for the early stop and `Progress.calibration`.
        start: a network to start from (fine-tuning), which is not changed; without it the seed makes one.
        patients: number of patients of the scans; by default one per scan.
        phantoms: how many of the scans, the last ones, are phantoms. The axes of the latents, and the unit on each, are
            those of the others.
        pictures: called at intervals and at the end, in the process of rank 0, with a copy of the network as it would
            be returned, and the step; for plots of reconstructions and latents.
        pictures_every_s: interval between these calls in seconds.
        announce: called with each of the last steps before it begins, in the process of rank 0.
        checkpoint: a file; if it exists, training resumes from it exactly. Written at intervals, at SIGTERM, at Ctrl-C
            and at the end; the caller removes it when its bundle is written.
        checkpoint_every_s: interval in seconds; longer if writing takes more than a twentieth of it; 0: each step.

    Raises:
        FloatingPointError: the loss or a gradient is not finite.
        TrainingInterrupted: SIGTERM or Ctrl-C arrived, and the checkpoint was written.
        CheckpointError: the checkpoint is damaged or belongs to another training.
        ValueError: windows are smaller than the network's, or there is patience without calibration windows.
    """
    if settings.patience and not any(len(windows) for windows in calibration):
        raise ValueError(f"patience is {settings.patience} without calibration windows; give some, or 0")
    keep_freed_memory()
    fabric = _fabric(settings)
    first = fabric.global_rank == 0
    with threads_and_seed(settings.threads, settings.seed), _stop_signals() as stopped:
        log = StepLog(
            report if first else lambda _: None,
            report_every_s,
            patients=len(scans) if patients is None else patients,
            free_bits_nats=settings.free_bits_nats,
        )
        run = TrainingRun(fabric, scans, settings, calibration, start, log)
        check_last_steps(run.vae, settings)
        if checkpoint is not None:
            _resume(run, checkpoint)
        began = time.monotonic() - run.elapsed_s
        saved_s = drawn_s = run.elapsed_s
        saving_s = 0.0
        with closing(run.batches()) as batches:
            while not run.finished:
                run.advance(batches)
                stop = run.tick(time.monotonic() - began, stopped())
                wait_s = max(checkpoint_every_s, 20 * saving_s) if checkpoint_every_s else 0.0
                due = run.elapsed_s - saved_s > wait_s
                if checkpoint is not None and (stop or due):
                    began_saving = time.monotonic()
                    run.save(checkpoint)
                    saved_s, saving_s = run.elapsed_s, time.monotonic() - began_saving
                if stop:
                    raise _interrupted(f"step {run.step}", checkpoint)
                if first and run.elapsed_s - drawn_s > pictures_every_s:
                    pictures(run.result(), run.step)
                    drawn_s = run.elapsed_s
        if checkpoint is not None:
            run.save(checkpoint)
        if first:
            pictures(run.result(), run.step)

        def announced(text: str) -> None:
            if stopped():
                raise _interrupted(f"its last step {run.step}", checkpoint)
            if first:
                announce(text)

        vae = run.result().to(fabric.device)
        vae = last_steps(vae, scans, settings, phantoms=phantoms, announce=announced).cpu()
        parameters = parameters_of(vae, settings.parameters)
        return Trained(vae, parameters, run.step, run.elapsed_s, tuple(log.history), run.ended, fabric.global_rank)


def _interrupted(last: str, checkpoint: Path | None) -> TrainingInterrupted:
    then = "start again with its checkpoint to go on" if checkpoint else "it kept no checkpoint"
    return TrainingInterrupted(f"training was interrupted after {last}; {then}")


def keep_freed_memory() -> None:
    """Make glibc's malloc keep large blocks for the next step, as long as the process lives.

    Otherwise it returns each to the kernel, which clears every page of the next one: 22 to 32 thousand page faults per
    step of the `ct_vae`, and 5 % of its time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # other C libraries do not have it
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def _fabric(settings: TrainingSettings) -> Fabric:
    """Return Fabric, with its processes started. Importing it takes seconds, which only training pays."""
    from lightning.fabric import Fabric

    for package in ("lightning.fabric", "lightning.pytorch"):  # the latter logs for both once imported
        logging.getLogger(package).setLevel(logging.WARNING)
    accelerator = settings.accelerator
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    precision = settings.precision
    if accelerator == "cpu" and precision != "32-true":
        # With AVX512_BF16, half of the gradients of 3×3×3 convolutions on small grids are NaN (torch 2.13.0).
        logger.warning("training in float32: precision %s is for GPUs, and this training runs on a CPU", precision)
        precision = "32-true"
    if accelerator == "cuda" and torch.cuda.device_count() < settings.devices:
        raise ValueError(f"{settings.devices} GPUs were asked for; torch finds {torch.cuda.device_count()} here")
    fabric = Fabric(
        accelerator=accelerator,
        devices=settings.devices,
        num_nodes=settings.nodes,
        # A part of a network that this loss does not use, such as a description without weight, has no gradient.
        strategy="ddp_find_unused_parameters_true" if settings.devices * settings.nodes > 1 else "auto",
        precision=precision,
    )
    fabric.launch()
    return fabric


def _resume(run: TrainingRun, checkpoint: Path) -> None:
    there = checkpoint.is_file()
    if run.fabric.world_size > 1:
        seen = torch.tensor(float(there), device=run.fabric.device)
        if over_all(run.fabric, seen, "mean").item() not in (0.0, 1.0):
            raise CheckpointError("not every process sees the checkpoint; put it where all machines do")
    if there:
        run.restore(read_state(*load_checkpoint(checkpoint), run.identity))


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGTERM or Ctrl-C arrived; a second signal ends the process at once."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, _: object) -> None:
        came.append(number)
        for listened, handler in before.items():
            signal.signal(listened, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
