"""From a folder of CT to feature records in a plain loop: the Python function and `ctvae encode`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from app.exit_codes import exit_code
from app.ledger import Ledger, before_ledger
from app.open_pipeline import open_pipeline
from app.output_lock import output_lock
from app.predecessors import read_predecessors
from app.read_input import open_series
from app.settings import Device, EncodeSettings, RunPaths, Settings, check_apart, check_input
from operators.geometry.policy import NO_REPAIR, GeometryPolicy
from operators.job import log_outcome
from operators.pipeline import OnOutcome
from operators.read_study import Inventory
from operators.record import FeatureRecord
from operators.select_series import EVERY_CT, Selection
from operators.types import Outcome

logger = logging.getLogger(__name__)


def encode(
    folder: str | Path,
    model: str | Path | None = None,
    *,
    taps: Sequence[str] = (),
    device: Device = "auto",
    output: str | Path | None = None,
    selection: Selection = EVERY_CT,
    geometry: GeometryPolicy = NO_REPAIR,
    on_outcome: OnOutcome = log_outcome,
) -> Iterator[FeatureRecord]:
    """Encode every eligible CT series below a folder.

    Args:
        folder: holds DICOM files, at any depth, ZIP archives, or NIfTI, NRRD or MHA files; or is itself such a file.
            Archives stay unpacked only while this runs: slices of their volumes cannot be read later.
        model: a bundle, or a folder that holds one; None for the shipped one.
        taps: layers to read beside `mu` and `sigma`, such as `block3`, or with another pooling `block3:max`.
        device: `auto` uses a GPU if there is one.
        output: existing folder for `features.json` and `features.sr.dcm`; None writes nothing.
        selection: rules for the CT series to encode; by default every one is.
        geometry: what to repair instead of rejecting; by default nothing is invented.
        on_outcome: called for each series that ended, including rejected and skipped ones, which yield no record.

    Yields:
        One record per series (or part of one); `record.taps["mu"].values` is float32 (length,).

    Raises:
        StartError: the folder, the bundle or the name of a tap is wrong.
    """
    target = None if output is None else Path(output)
    settings = Settings(EncodeSettings(taps=tuple(taps), device=device), selection=selection, geometry=geometry)
    pipeline = open_pipeline(settings, None if model is None else Path(model), target)

    def enter(inventory: Inventory) -> None:
        for outcome in inventory.unreadable:
            on_outcome(outcome)

    source = check_input(Path(folder))
    if target is not None:
        check_apart(source, target)
    lock = nullcontext() if target is None else output_lock(target)
    with lock, open_series(source, settings, enter) as jobs:
        for selected in jobs:
            job = pipeline.run(selected)
            on_outcome(job.ended("eligible" if target is None else "written"))
            if not isinstance(job.state, Outcome):
                yield job.state


def encode_folder(paths: RunPaths, settings: Settings, predecessors: Sequence[Path] = ()) -> int:
    """Encode every series in a plain loop, with progress: what `ctvae encode` does.

    Args:
        paths: paths of the run.
        settings: settings of the run.
        predecessors: earlier SRs that the new ones replace.

    Returns:
        The exit code, see `app.exit_codes`.
    """
    from app.console import progress, summary

    with before_ledger(paths.output):
        replaced = read_predecessors(predecessors)
        opened = open_pipeline(settings, paths.models, paths.output)
    pipeline = replace(
        opened,
        predecessor_of=lambda series, _: replaced.get((series.series_instance_uid, series.part)),
    )
    with (
        Ledger(paths.output) as ledger,
        progress("reading headers") as report,
        open_series(paths.input, settings, ledger.enter_inventory, report) as jobs,
    ):
        for done, job in enumerate(jobs):
            report(done, ledger.series_found, "encoding series")
            ledger.enter(pipeline.run(job).ended("written"))
    written = {
        (outcome.series_instance_uid, outcome.part) for outcome in ledger.outcomes if outcome.status == "written"
    }
    for series, _ in replaced.keys() - written:
        logger.warning("no SR refers to the predecessor of series %s, for that series was not written", series)
    summary(ledger.outcomes, f"see {paths.output / 'outcome.json'}")
    return exit_code(ledger.outcomes)
