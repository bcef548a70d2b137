"""`ctvae train --dry-run`: split, windows, memory and time of a training, without training."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.research.data.scan import SPLITS, Scan, Split
from app.research.data.window_cache import with_margin
from app.research.train.recipe import Plan
from models.networks.vae import Vae
from models.spec import Preprocessing
from operators.errors import SeriesError
from operators.geometry.windows import target_axes, window_starts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SplitCount:
    """The content of a split.

    Attributes:
        split: its name.
        patients: number of patients with an accepted volume.
        volumes: number of accepted volumes.
        windows: number of their windows.
        left_out: number of rejected volumes.
    """

    split: Split
    patients: int
    volumes: int
    windows: int
    left_out: int


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a training would do.

    Attributes:
        counts: content of each split, according to headers.
        cache_bytes: size of the windows on disk, from which training reads.
        step_s: time of one optimiser step, measured here on noise.
        memory_bytes: peak memory of the process meanwhile (on a GPU: there).
        checkpoint_bytes: size of the file that `--resume` continues from.
        steps: number of steps of the training.
        minutes: its duration without reading.
    """

    counts: tuple[SplitCount, ...]
    cache_bytes: int
    step_s: float
    memory_bytes: int
    checkpoint_bytes: int
    steps: int
    minutes: float

    def lines(self) -> list[str]:
        """Return the report, for a terminal."""
        rows = [f"{'split':12} {'patients':>8} {'volumes':>8} {'windows':>8} {'left out':>8}"]
        rows += [f"{c.split:12} {c.patients:8} {c.volumes:8} {c.windows:8} {c.left_out:8}" for c in self.counts]
        train_windows = next(count.windows for count in self.counts if count.split == "train")
        return [
            *rows,
            f"windows in the cache: {_size(self.cache_bytes)} ({train_windows} to learn from, with a margin)",
            f"memory of this process: {_size(self.memory_bytes)}; checkpoint: {_size(self.checkpoint_bytes)}",
            f"about {self.steps} steps of {self.step_s:.2f} s: {self.minutes:.0f} minutes, reading not counted",
        ]


def dry_run(plan: Plan, parts: Mapping[Split, Sequence[Scan]], vae: Vae) -> DryRun:
    """Count by headers, measure a step, and return both."""
    from models.training.cost import measure_step

    counts, cache_bytes = [], 0
    for split in SPLITS:
        wanted = with_margin(plan.preprocessing) if split == "train" else plan.preprocessing
        windows = {scan.key: found for scan in parts[split] if (found := _windows(scan, wanted)) is not None}
        kept = [scan for scan in parts[split] if scan.key in windows]
        count = sum(windows[scan.key] for scan in kept)
        patients = len({scan.patient for scan in kept})
        counts.append(SplitCount(split, patients, len(kept), count, len(parts[split]) - len(kept)))
        cache_bytes += 2 * count * math.prod(wanted.window_voxels)
    cost = measure_step(vae, plan.training)
    steps = plan.training.steps or max(1, round(60 * (plan.training.minutes or 0) / cost.seconds))
    minutes = plan.training.minutes or steps * cost.seconds / 60
    return DryRun(tuple(counts), cache_bytes, cost.seconds, cost.memory_bytes, cost.checkpoint_bytes, steps, minutes)


def _windows(scan: Scan, preprocessing: Preprocessing) -> int | None:
    """Return how many windows a scan gives, without decoding it; None if it is rejected."""
    try:
        axis = target_axes(scan.open(), preprocessing)[0]
    except SeriesError as error:
        logger.warning("a volume of patient %s is left out: %s", scan.patient, error)
        return None
    return len(window_starts(axis.n_target, preprocessing.window_voxels[0], preprocessing.overlap))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
