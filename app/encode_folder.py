"""A folder of CT → feature records in a plain loop, and what the graph and this loop have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from app.exit_codes import exit_code
from app.settings import Device, RunPaths, Settings, check_input, disclosure, starting
from models.bundle.store import find_bundle, load_bundle
from models.runtime import open_encoder
from models.spec import BundleError
from operators.build_volume import build_volume
from operators.encode import check_taps
from operators.geometry.policy import NO_REPAIR, GeometryPolicy
from operators.geometry.windows import ARRAYS_ONLY
from operators.input.archives import unpacked
from operators.job import Job, failure, log_outcome
from operators.make_record import Disclosure
from operators.pipeline import OnOutcome, Recipe
from operators.read_study import Reading, read_studies
from operators.results.write_json import RunFacts, write_outcome
from operators.select_series import EVERY_CT, Selection, candidates, take
from operators.types import FeatureRecord, Outcome, RunFailed, Series, SeriesFailed, StartError
from operators.write_features import remove_features, series_folder

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
        folder: holds DICOM files, in any sub-folders, or ZIP archives, NIfTI, NRRD or MHA files; or is such a file.
            Archives are unpacked for as long as this runs: slices of their volumes cannot be read later.
        model: a bundle, or a folder that holds one; None for the one that is shipped.
        taps: layers to read beside `mu` and `sigma`, as `block3` or with another pooling as `block3:max`.
        device: `auto` takes the GPU where there is one.
        output: existing folder to write `features.json` and `features.sr.dcm` into; None writes nothing.
        selection: rules that say which CT series are encoded; by default every one is.
        geometry: what is repaired rather than rejected; by default nothing that was not scanned is made up.
        on_outcome: called for each series that ended, the rejected and skipped too; they yield no record.

    Yields:
        One record a series (or part of one); `record.taps["mu"].values` is float32 (length,).

    Raises:
        StartError: the folder, the bundle or a tap's name is wrong.
    """
    target = None if output is None else Path(output)
    models = None if model is None else Path(model)
    recipe = open_recipe(models, None, tuple(taps), device, Disclosure(), target, selection, geometry)
    source = check_input(Path(folder))
    with unpacked(source) as archives:
        reading = read_studies(source, archives=archives)
        for outcome in reading.unreadable:
            on_outcome(outcome)
        for candidate in recipe.jobs(reading.studies):
            job = recipe.run(candidate)
            on_outcome(job.ended("eligible" if target is None else "written"))
            if not isinstance(job.state, Outcome):
                yield job.state


def all_series(reading: Reading) -> list[Series]:
    """Every series of every study, in the order in which they were read."""
    return [series for study in reading.studies for series in study.series]


@starting()
def open_recipe(
    models: Path | None,
    name: str | None,
    taps: tuple[str, ...],
    device: Device,
    disclosed: Disclosure,
    output: Path | None,
    selection: Selection = EVERY_CT,
    geometry: GeometryPolicy = NO_REPAIR,
) -> Recipe:
    """Find, check and open the model, and decide what is done to each series.

    Raises:
        StartError: BUNDLE_INVALID, ARRAYS_ONLY or UNKNOWN_TAP.
    """
    try:
        bundle = load_bundle(find_bundle(models, name))
        if bundle.arrays_only:
            raise StartError("ARRAYS_ONLY", ARRAYS_ONLY)
        encoder = open_encoder(bundle, device)
    except BundleError as error:
        raise StartError("BUNDLE_INVALID", str(error)) from error
    check_taps(bundle, taps)
    return Recipe(bundle, encoder, taps, disclosed, output, selection, geometry)


def recipe_from_settings(settings: Settings, models: Path | None, output: Path | None) -> Recipe:
    """The recipe that app.yaml and the arguments ask for."""
    chosen = settings.encode
    return open_recipe(
        models,
        chosen.model,
        chosen.taps,
        chosen.device,
        disclosure(settings),
        output,
        settings.selection,
        settings.geometry,
    )


def encode_folder(paths: RunPaths, settings: Settings) -> int:
    """What `ctvae encode` does: every series in a plain loop, with progress; the exit code of the contract."""
    from app.console import progress, summary

    recipe = recipe_from_settings(settings, paths.models, paths.output)
    with Ledger(paths.output) as ledger, unpacked(paths.input) as archives:
        with progress("reading headers") as on_file:
            reading = read_studies(paths.input, on_file, archives)
        ledger.enter_reading(reading)
        total = len(all_series(reading))
        with progress("encoding series") as on_series:
            for done, candidate in enumerate(recipe.jobs(reading.studies)):
                on_series(done, total)
                ledger.enter(recipe.run(candidate).ended("written"))
    summary(ledger.outcomes, f"see {paths.output / 'outcome.json'}")
    return exit_code(ledger.outcomes)


@dataclass(frozen=True, slots=True)
class Inspection:
    """A series, and what would become of it."""

    outcome: Outcome
    description: str


def inspect_folder(
    folder: Path, settings: Settings, on_file: Callable[[int, int], None] | None = None
) -> list[Inspection]:
    """Every series below a folder with the verdict of selection and geometry gate; no pixel of DICOM is decoded."""
    with unpacked(folder) as archives:
        reading = read_studies(folder, on_file, archives)
        inspected = [Inspection(outcome, "a file that cannot be read") for outcome in reading.unreadable]
        build = partial(build_volume, policy=settings.geometry)
        for candidate in candidates(reading.studies, settings.selection):
            outcome = candidate.then("select", take).then("volume", build).ended("eligible")
            inspected.append(Inspection(outcome, _description(candidate.series)))
    return inspected


def _description(series: Series) -> str:
    """Modality, description and number of files: what a person knows a series by."""
    if series.image:
        return f"{series.image.format} file"
    header = series.first
    words = [header.get("Modality"), header.get("SeriesDescription"), f"{len(series.files)} files"]
    return ", ".join(str(word) for word in words if word)


@dataclass(slots=True)
class Ledger:
    """Every series met in a run and how it ended; the only thing of a run that grows.

    Attributes:
        output: folder in which `outcome.json` ends; one of an earlier run is taken away at the start, so that a run
            that is killed leaves no ledger rather than a wrong one.
    """

    output: Path
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    reading_seconds: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    reading: Reading | None = None

    def __post_init__(self) -> None:
        with starting():
            (self.output / "outcome.json").unlink(missing_ok=True)
            (self.output / "result.json").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """The open ledger."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it, also when the run was interrupted or broke: what was met and has no outcome has failed."""
        if error is None or self.reading is not None:
            self.close()

    def enter(self, outcome: Outcome) -> None:
        """A series ended: one line in the log, one in the ledger, and no result of an earlier run if it has none."""
        if outcome.status != "written":
            with starting():
                remove_features(self.output, series_folder(outcome))
        log_outcome(outcome)
        self.outcomes.append(outcome)

    def enter_reading(self, reading: Reading) -> None:
        """All headers are read: the files that could not be are entered."""
        self.reading = reading
        self.reading_seconds = (datetime.now(UTC) - self.started).total_seconds()
        for outcome in reading.unreadable:
            self.enter(outcome)

    def close(self) -> None:
        """Write `outcome.json` and `result.json`.

        Silence is never success: a series that was met and has no outcome has failed, and no CT at all is a line.

        Raises:
            RunFailed: LOST_RUN, where it ended before anything was read.
        """
        if self.reading is None:
            raise RunFailed("LOST_RUN", "the run ended before the input was read; nothing was written; run again")
        ended = {(outcome.series_instance_uid, outcome.part) for outcome in self.outcomes}
        for series in all_series(self.reading):
            if (series.series_instance_uid, series.part) not in ended:
                lost = SeriesFailed("LOST_SERIES", "the run ended before this series did; run again")
                self.enter(failure(Job(series, series), lost))
        ruled_out = sum(outcome.reason == "NO_RULE" for outcome in self.outcomes)
        if all(outcome.status == "skipped" for outcome in self.outcomes) and ruled_out:
            logger.error("NO_RULE: no selection rule takes any of %d CT series; `ctvae inspect -c` says why", ruled_out)
        elif all(outcome.status == "skipped" for outcome in self.outcomes):
            met = f"{len(self.outcomes)} other series, {self.reading.not_dicom} files that are no DICOM images"
            logger.error("NO_CT: no CT image series in the input folder (%s); `ctvae inspect` says what is there", met)
        about = RunFacts(self.started, self.reading_seconds, self.reading.not_dicom)
        write_outcome(self.outcomes, self.output, about)
