"""Files to watch a training by: TensorBoard, plots, and a line of numbers for every report.

OUTPUT.log/train.yaml           the complete plan
OUTPUT.log/progress.jsonl       a line for every report
OUTPUT.log/events.out.…         for TensorBoard
OUTPUT.log/curve.png, reconstruction.png, latents.png
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.research.train.plots import plot_curve, plot_latents, plot_reconstruction
from app.research.train.recipe import Plan
from models.training.progress import Progress

if TYPE_CHECKING:
    from models.networks.vae import Vae

logger = logging.getLogger(__name__)

_LOOKED_AT_VOXELS = 100_000_000
_LOOKED_AT_WINDOWS = 256
_SHOWN_WINDOWS = 3
_LISTED_DIMENSIONS = 1024


class Monitor:
    """Receives the reports and plots of one training, in the process of rank 0."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        windows: Mapping[str, Sequence[NDArray[np.floating[Any]]]],
        *,
        resumed: bool = False,
    ) -> None:
        """Begin, or continue a folder from before the first report.

        Args:
            folder: folder of the log; created if missing.
            plan: the complete plan of the training.
            windows: of the calibration patients, (n, d, h, w) for each of their scans.
            resumed: whether a checkpoint is resumed; otherwise files of another training in the folder are removed.
        """
        self._folder, self._plan, self._resumed = folder, plan, resumed
        self._patients, self._windows = _spread(windows)
        self._history: list[Progress] = []
        self._writer: Any = None

    def report(self, at: Progress) -> None:
        """Write one line, and the same to TensorBoard."""
        if self._writer is None:
            self._begin(at.step)
        self._history.append(at)
        with (self._folder / "progress.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(_line(at))
        for name, value in asdict(at).items():
            if isinstance(value, (int, float)) and name not in ("step", "latents") and math.isfinite(value):
                self._writer.add_scalar(f"train/{name}", value, at.step)
        if at.kl_by_dimension:
            self._writer.add_histogram("train/kl_by_dimension", np.array(at.kl_by_dimension), at.step)

    def pictures(self, vae: Vae, step: int) -> None:
        """Draw the three plots of the network in its current state, on windows of calibration patients."""
        import torch

        mus, kls = [], []
        device = next(vae.parameters()).device
        from models.training.losses import kl_divergence

        with torch.no_grad():
            for window in self._windows:
                mu, logvar = vae.encode(torch.from_numpy(np.asarray(window, np.float32))[None, None].to(device))
                mus.append(mu.float().cpu())
                kls.append(kl_divergence(mu, logvar).float().cpu())
            shown = _fullest(self._windows, self._patients)
            again = [vae.decode(mus[k].to(device))[0, 0].float().cpu().numpy() for k in shown]
        settings, preprocessing = self._plan.training, self._plan.preprocessing
        plot_reconstruction(
            self._folder / "reconstruction.png",
            np.stack([self._windows[k] for k in shown]),
            np.stack(again),
            window_hu=preprocessing.window_hu,
            spacing_mm=preprocessing.spacing_mm,
            title=f"Reconstruction of calibration windows from mu, after step {step}",
        )
        plot_latents(
            self._folder / "latents.png",
            torch.cat(kls).mean(0).numpy(),
            torch.cat(mus).numpy(),
            self._patients,
            title=f"Latent space on calibration windows, after step {step}",
            free_bits_nats=settings.free_bits_nats,
        )
        if self._history:
            curve = self._folder / "curve.png"
            plot_curve(curve, self._history, preprocessing.window_hu, title=f"Training up to step {step}")
        self._show(step)

    def close(self) -> None:
        """Flush what TensorBoard will read."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self, step: int) -> None:
        """Drop what an interrupted training wrote after the step to resume from, and all of another training."""
        from torch.utils.tensorboard import SummaryWriter

        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "train.yaml").write_text(self._plan.as_yaml(), encoding="utf-8")
        file = self._folder / "progress.jsonl"
        if self._resumed and file.is_file():
            self._history = [at for at in _read(file) if at.step < step]
        file.write_text("".join(map(_line, self._history)), encoding="utf-8")
        if not self._history:
            for old in self._folder.glob("events.out.tfevents.*"):
                old.unlink()
        self._writer = SummaryWriter(str(self._folder), purge_step=step if self._history else None)

    def _show(self, step: int) -> None:
        from matplotlib.image import imread

        if self._writer is not None:
            for name in ("reconstruction", "latents"):
                self._writer.add_image(name, imread(self._folder / f"{name}.png")[..., :3], step, dataformats="HWC")
            self._writer.flush()


@contextmanager
def monitored(
    folder: Path,
    plan: Plan,
    windows: Mapping[str, Sequence[NDArray[np.floating[Any]]]],
    *,
    resumed: bool = False,
) -> Iterator[Monitor]:
    """Yield a monitor for the duration of the block."""
    monitor = Monitor(folder, plan, windows, resumed=resumed)
    try:
        yield monitor
    finally:
        monitor.close()


def _spread(
    windows: Mapping[str, Sequence[NDArray[np.floating[Any]]]],
) -> tuple[list[str], list[NDArray[np.floating[Any]]]]:
    """Return some windows of every patient, evenly taken, few enough to look at often: (patient of each, window)."""
    all_of = {patient: [window for scan in scans for window in scan] for patient, scans in windows.items()}
    voxels = max(window.size for taken in all_of.values() for window in taken)
    count = max(_SHOWN_WINDOWS, min(_LOOKED_AT_WINDOWS, _LOOKED_AT_VOXELS // voxels))
    each = max(1, count // len(all_of))
    chosen = [
        (patient, taken[int(k)])
        for patient, taken in all_of.items()
        for k in np.unique(np.linspace(0, len(taken) - 1, min(each, len(taken))).round())
    ][:count]
    return [patient for patient, _ in chosen], [window for _, window in chosen]


def _fullest(windows: Sequence[NDArray[np.floating[Any]]], patients: Sequence[str]) -> list[int]:
    """Return the window with the most body for each of some patients, evenly taken; for one patient, some windows."""
    body = [float(np.asarray(window, np.float32).mean()) for window in windows]
    names = list(dict.fromkeys(patients))
    best = [max((k for k, one in enumerate(patients) if one == name), key=body.__getitem__) for name in names]
    rest = [k for k in np.argsort(body)[::-1].tolist() if k not in best]
    shown = min(_SHOWN_WINDOWS, len(windows))
    if len(best) < shown:
        return [*best, *rest][:shown]
    return [best[int(k)] for k in np.linspace(0, len(best) - 1, shown).round()]


def _line(at: Progress) -> str:
    values = asdict(at)
    if len(at.kl_by_dimension) > _LISTED_DIMENSIONS:  # a dense latent: a quarter of a megabyte at every report
        del values["kl_by_dimension"]
    return json.dumps(values) + "\n"


def _read(file: Path) -> list[Progress]:
    """Return the readable lines: a kill may have cut off the last one."""
    known, found = {one.name for one in fields(Progress)}, []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
            found.append(Progress(**{key: values[key] for key in known & set(values)}))
        except (ValueError, TypeError):
            logger.info("a line of progress.jsonl cannot be read and is dropped")
    return found
