"""Train a VAE on a folder or list of CT and write it as a bundle: what `ctvae train` does."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.research.data.find_scans import find_scans
from app.research.data.join_labels import join_labels
from app.research.data.phantoms import phantom_scans
from app.research.data.scan import SPLITS, Scan, Split
from app.research.data.splits import split_by_patient
from app.research.data.window_cache import ScanWindows, cached_windows, with_margin
from app.research.reference import put_reference
from app.research.train.describe import UNSAID, Wording, check_describable, describe, write
from app.research.train.dry_run import DryRun, dry_run
from app.research.train.recipe import Plan
from app.settings import DEFAULTS, Settings
from models.bundle.store import check_replaceable
from models.spec import Bundle, BundleError, InTheWayError, Preprocessing
from models.training.settings import TrainingSettings
from models.training_record import names_of
from operators.errors import RunFailed, SeriesError, StartError

if TYPE_CHECKING:
    from models.networks.vae import Vae
    from models.training.train import Trained

logger = logging.getLogger(__name__)

Report = Callable[[str, float], None]

DEFAULT_CACHE = Path(".cache", "windows")


@dataclass(frozen=True, slots=True)
class TrainingPaths:
    """Where a training reads and writes.

    Attributes:
        data: a folder, or a list (see `find_scans`) with paths relative to `root`.
        output: the bundle's folder, whose name becomes the bundle's. An existing bundle, with its certificate, is
            replaced.
        root: see `data`.
        cache: folder for the windows, which are images of patients.
        labels: see `join_labels`.
    """

    data: Path
    output: Path
    root: Path | None = None
    cache: Path = DEFAULT_CACHE
    labels: Path | None = None

    @property
    def checkpoint(self) -> Path:
        """File from which an unfinished training can resume; removed once the bundle is written."""
        return self.output.with_name(f"{self.output.name}.checkpoint")

    @property
    def log(self) -> Path:
        """Folder of the files to watch the training by."""
        return self.output.with_name(f"{self.output.name}.log")


@dataclass(frozen=True, slots=True)
class TrainingWindows:
    """What a network learns from, and what its training is watched by.

    Attributes:
        settings: how to train, complete.
        scans: float16 windows with a margin, (n, D, H, W) for each scan.
        calibration: patient → windows of the network's own size, (n, d, h, w) for each of its scans.
        patients: number of patients of the scans.
    """

    settings: TrainingSettings
    scans: tuple[NDArray[np.float16], ...]
    calibration: Mapping[str, Sequence[NDArray[np.float16]]]
    patients: int


def train_bundle(
    places: TrainingPaths,
    plan: Plan,
    *,
    wording: Wording = UNSAID,
    resume: bool = False,
    settings: Settings = DEFAULTS,
    report: Report = lambda text, fraction: None,
) -> Bundle | None:
    """Read, split, train, measure, and write the bundle with its card.

    Args:
        places: where to read and write.
        plan: how to train.
        wording: text for the card.
        resume: whether to resume from the checkpoint beside the output, if there is one.
        settings: which series are selected, and how they are read.
        report: called with the current activity and the fraction done, 0 to 1.

    Returns:
        The bundle; None in a process whose rank is not 0.

    Raises:
        StartError: there is no data or no such split, the network cannot be built, or an output or checkpoint is in the
            way.
        RunFailed: `DIVERGED`, or `INTERRUPTED` with what to do next.
        BundleError: the bundle could not be written.
    """
    _check_output(places, resume)
    if resume and not places.checkpoint.is_file():
        logger.warning("there is no %s to resume from: training begins at the start", places.checkpoint.name)
    plan, start, parts = _prepared(places, plan, wording, settings)
    windows = _read(parts, plan.preprocessing, places.cache, report)
    trained = _train(places, plan, parts, windows, start, report)
    if trained.rank != 0:
        return None
    report("measuring on the test patients", 1.0)
    try:
        bundle = describe(places.output, plan, parts, windows, trained, wording)
        report("writing the bundle", 1.0)
        written = write(bundle, trained.vae)
    except BundleError as error:
        text = f"{error}; {places.checkpoint.name} keeps the trained network: mend this and give --resume to write it"
        raise BundleError(text) from error
    places.checkpoint.unlink(missing_ok=True)
    return _with_reference(written, parts["reference"], report)


def _with_reference(bundle: Bundle, scans: Sequence[Scan], report: Report) -> Bundle:
    """Return the bundle with its reference population, or without one if none can be formed; the log says why."""
    if not scans:
        return bundle
    try:
        return put_reference(bundle, scans, report)
    except StartError as error:
        logger.warning("the bundle has no reference population: %s", error.message)
        return bundle


def dry_run_training(
    places: TrainingPaths, plan: Plan, *, wording: Wording = UNSAID, settings: Settings = DEFAULTS
) -> DryRun:
    """Return what `train_bundle` would do, as far as headers and one step tell; nothing is written.

    Raises:
        StartError, BundleError: whatever would stop the training.
    """
    from models.networks.registry import build_vae

    _check_output(places, resume=True)
    plan, start, parts = _prepared(places, plan, wording, settings)
    return dry_run(plan, parts, start or build_vae(plan.training.architecture, plan.training.parameters))


def read_to_train(places: TrainingPaths, plan: Plan, *, settings: Settings = DEFAULTS) -> TrainingWindows:
    """Return what `train_bundle` would learn from, for a training by other means.

    Raises:
        StartError: there is no data, or no such split.
    """
    plan, _, parts = _prepared(places, plan, UNSAID, settings)
    wanted: dict[Split, tuple[Scan, ...]] = {split: parts[split] for split in SPLITS[:2]}
    return _training_windows(plan, parts, _read(wanted, plan.preprocessing, places.cache, lambda text, fraction: None))


def _training_windows(
    plan: Plan, parts: Mapping[Split, Sequence[Scan]], windows: Mapping[str, ScanWindows]
) -> TrainingWindows:
    learned = [scan for scan in parts["train"] if scan.key in windows]
    calibration: dict[str, list[NDArray[np.float16]]] = defaultdict(list)
    for scan in parts["calibration"]:
        if scan.key in windows:
            calibration[scan.patient].append(windows[scan.key].voxels)
    voxels = tuple(windows[scan.key].voxels for scan in learned)
    return TrainingWindows(plan.training, voxels, calibration, len({scan.patient for scan in learned}))


def _prepared(
    places: TrainingPaths, plan: Plan, wording: Wording, settings: Settings
) -> tuple[Plan, Vae | None, dict[Split, tuple[Scan, ...]]]:
    """Return the complete plan, the network to start from, and the scans by split."""
    plan = _whole(places.output, plan, wording)
    start = _start(plan)
    scans = find_scans(places.data, places.root, settings)
    if places.labels is not None:
        scans = join_labels(scans, places.labels)
    drawn = {name: getattr(plan.data, name) for name in ("calibration", "test", "reference", "seed")}
    parts = split_by_patient(scans, **drawn)
    _check_parent(parts, plan.start)
    parts["train"] = (*parts["train"], *phantom_scans(plan.data.phantoms, plan.data.seed))
    return plan, start, parts


def _check_output(places: TrainingPaths, resume: bool) -> None:
    """Check everything that could make the last step fail, before hours of training."""
    output, checkpoint = places.output, places.checkpoint
    try:
        check_replaceable(output)
    except InTheWayError as error:
        raise StartError(error.reason, str(error)) from error
    if checkpoint.exists() and not resume:
        text = f"{checkpoint.name} is an unfinished training: go on with --resume, or delete it to begin anew"
        raise StartError("CHECKPOINT_EXISTS", text)
    there = next(one for one in (places.log, *output.absolute().parents) if one.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise StartError("OUTPUT_UNWRITABLE", f"cannot write beside {output.name}; choose another place with -o")


def _whole(output: Path, plan: Plan, wording: Wording) -> Plan:
    """Return the plan with all of the network's parameters, after checking that it can be built and described."""
    from models.networks.registry import all_parameters, build_vae

    try:
        parameters = all_parameters(plan.training.architecture, plan.training.parameters)
        vae = build_vae(plan.training.architecture, parameters)
    except BundleError as error:
        if plan.start is not None:
            raise
        raise StartError("BAD_RECIPE", str(error)) from error
    plan = replace(plan, training=replace(plan.training, parameters=parameters))
    check_describable(output, plan, vae, wording)
    return plan


def _start(plan: Plan) -> Vae | None:
    """Return the network to fine-tune."""
    if plan.start is None:
        return None
    from models.runtime import load_vae

    vae = load_vae(plan.start)
    if vae.decoder is None:
        text = f"{plan.start.name} is an encoder that came without its decoder; it cannot be trained as a VAE"
        raise StartError("INIT_CONFLICT", text)
    return vae


def _check_parent(parts: Mapping[Split, Sequence[Scan]], parent: Bundle | None) -> None:
    """Check that nobody is measured whom the parent, or its own parents, learned from.

    The patients that watched over the parent's training may watch over this one.
    """
    if parent is None:
        return
    learned = parent.training.learned
    for split in SPLITS[1:]:
        names = names_of(case for case in learned if split != "calibration" or case.split != "calibration")
        seen = sorted({scan.patient for scan in parts[split] if {scan.patient, scan.key} & names})
        if seen:
            text = f"{parent.name} was trained or calibrated on patient {seen[0]}, who is in {split} now"
            raise StartError("BAD_SPLIT", f"{text}; put that patient into train (or name another patient otherwise)")


def _read(
    parts: Mapping[Split, Sequence[Scan]], preprocessing: Preprocessing, cache: Path, report: Report
) -> dict[str, ScanWindows]:
    """Return windows by the scan's key, those for training with a margin; rejected scans are logged and left out."""
    windows: dict[str, ScanWindows] = {}
    total, done = sum(map(len, parts.values())), 0
    for split, scans in parts.items():
        for scan in scans:
            report(f"reading volume {done + 1} of {total}", done / total)
            done += 1
            try:
                wanted = with_margin(preprocessing) if split == "train" else preprocessing
                windows[scan.key] = cached_windows(scan, wanted, cache)
            except SeriesError as error:
                logger.warning("a volume of patient %s is left out: %s", scan.patient, error)
        if scans and not any(scan.key in windows for scan in scans):
            raise StartError("NO_DATA", f"none of {len(scans)} volumes in {split} could be read; see the log")
    return windows


def _train(
    places: TrainingPaths,
    plan: Plan,
    parts: Mapping[Split, Sequence[Scan]],
    windows: Mapping[str, ScanWindows],
    start: Vae | None,
    report: Report,
) -> Trained:
    from app.research.train.monitor import monitored
    from models.training.checkpoint import CheckpointError
    from models.training.train import TrainingInterrupted, train

    given = _training_windows(plan, parts, windows)
    with monitored(places.log, plan, given.calibration, resumed=places.checkpoint.is_file()) as monitor:

        def reported(at: Any) -> None:
            monitor.report(at)
            report(at.line(), at.fraction)

        try:
            return train(
                given.scans,
                given.settings,
                reported,
                calibration=[voxels for scans in given.calibration.values() for voxels in scans],
                start=start,
                patients=given.patients,
                phantoms=plan.data.phantoms,
                pictures=monitor.pictures,
                announce=lambda text: report(text, 1.0),
                checkpoint=places.checkpoint,
            )
        except CheckpointError as error:
            raise StartError("CHECKPOINT_INVALID", str(error)) from error
        except FloatingPointError as error:
            raise RunFailed("DIVERGED", str(error)) from error
        except ValueError as error:
            raise StartError("CANNOT_TRAIN", str(error)) from error
        except TrainingInterrupted as error:
            stopped = str(error).partition(";")[0]
            text = f"{stopped}; {places.checkpoint.name} keeps it: go on with the same command and --resume"
            raise RunFailed("INTERRUPTED", text) from error
