"""One unit → how each of its series ended, with its features: the same way as in `ctvae encode`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.cohort.ended import Ended
from app.cohort.open_unit import open_files, read_unit
from app.cohort.server import Server
from app.cohort.units import Unit
from app.settings import Settings
from app.table.columns import Layout
from app.table.result import result_of_document
from operators.errors import RunFailed, SeriesError, SeriesFailed, StartError
from operators.input.files import InputRoots
from operators.job import Job
from operators.pipeline import Pipeline
from operators.record import FeatureRecord
from operators.results.write_json import features_document
from operators.select_series import select
from operators.types import Outcome, Series
from operators.write_features import ResultFiles, write_features

Files = Literal["none", "json", "json_and_sr"]


@dataclass(frozen=True, slots=True)
class Work:
    """What is done to every unit of a cohort: plain values, for each process opens the model for itself.

    Attributes:
        root: folder that the files lie below.
        settings: which series are selected, how they are read, what is disclosed.
        models: a bundle or a folder of bundles; None for the shipped one.
        results: folder for the files of the series.
        files: which files a series gets there.
        weights_sha256: of the bundle; a process that finds other weights stops.
        config_digest: of all settings that can change what is written; likewise.
        runtime: what computes; likewise.
        server: which the files are fetched from; None where they lie below the root.
    """

    root: Path
    settings: Settings
    models: Path | None
    results: Path
    files: Files
    weights_sha256: str
    config_digest: str
    runtime: str
    server: Server | None = None


def encode_unit(unit: Unit, work: Work, pipeline: Pipeline) -> list[Ended]:
    """Encode a unit.

    Raises:
        RunFailed: `OUTPUT_UNWRITABLE`, `SERVER_FAILED`: what is wrong with the disk or the server is for every unit.
        StartError: `BUNDLE_CHANGED`.
    """
    folder = work.results / unit.folder_name
    shutil.rmtree(folder, ignore_errors=True)  # of the unit as it was before
    if not _is_unchanged(unit, work):
        return failed(unit, _changed("since it was indexed"))
    try:
        with ExitStack() as stack:
            root = work.server.fetched(unit, stack) if work.server else work.root
            roots, paths = open_files(unit, root, stack)
            ended = list(_ended(unit, work, pipeline, roots, paths))
    except SeriesError as error:
        ended = failed(unit, error)
    if not _is_unchanged(unit, work):
        ended = failed(unit, _changed("while it was read"))
    if not any(one.row for one in ended):
        shutil.rmtree(folder, ignore_errors=True)
    return ended


def failed(unit: Unit, error: SeriesError) -> list[Ended]:
    """Return every series of a unit as ended by one error."""
    return [
        Ended(Outcome(uid, None, places[0], error.status, error.reason, error.message), places)
        for uid, places in unit.series().items()
    ]


def _ended(unit: Unit, work: Work, pipeline: Pipeline, roots: InputRoots, paths: list[Path]) -> Iterator[Ended]:
    inventory = read_unit(unit, roots, paths)
    for outcome in inventory.unreadable:
        yield Ended(outcome, (outcome.file or outcome.folder,))
    for study in inventory.studies:
        for selected in select(study, work.settings.selection):
            yield _series(selected, unit, work, pipeline)


def _series(selected: Job[Series], unit: Unit, work: Work, pipeline: Pipeline) -> Ended:
    job = pipeline.run(selected)
    if work.files != "none":
        files = ResultFiles(sr=(work.settings.sr,) if work.files == "json_and_sr" else ())
        job = job.then("write", lambda record: write_features(record, work.results / unit.folder_name, files))
    series, outcome = job.series, job.ended("written")
    if outcome.reason == "OUTPUT_UNWRITABLE":
        raise RunFailed("OUTPUT_UNWRITABLE", f"{outcome.message}; what was finished is kept; then run again")
    stated = dict(series.derived_uids)
    study, uid = (
        stated.get(keyword, known)
        for keyword, known in (
            ("StudyInstanceUID", series.study_instance_uid),
            ("SeriesInstanceUID", series.series_instance_uid),
        )
    )
    ended = Ended(outcome, unit.places(study, uid, series.folder), series.study_instance_uid)
    return ended if isinstance(job.state, Outcome) else _with_features(ended, job.state, work)


def _with_features(ended: Ended, record: FeatureRecord, work: Work) -> Ended:
    if (record.model.weights_sha256, record.config_digest) != (work.weights_sha256, work.config_digest):
        raise StartError("BUNDLE_CHANGED", "bundle or settings changed while the cohort was encoded; start again")
    result = result_of_document(features_document(record))
    others = [name for name in result.taps if name not in ("mu", "sigma")]
    lengths = {tap: len(result.taps[tap]) for tap in ("mu", "sigma", *others)}
    row = Layout(lengths, with_paths=False).wide(result, None)
    return Ended(ended.outcome, ended.places, ended.study, result.job_key, row, lengths)


def _is_unchanged(unit: Unit, work: Work) -> bool:
    if work.server:
        return True  # a SOP Instance UID stands for the same content for ever (PS3.3 C.12.1)
    stamps = {one.archive or one.path: (one.size, one.mtime_ns) for one in unit.files}
    try:
        states = {name: (work.root / os.fsdecode(name)).stat() for name in stamps}
    except OSError:
        return False
    return all(stamps[name] == (state.st_size, state.st_mtime_ns) for name, state in states.items())


def _changed(when: str) -> SeriesFailed:
    return SeriesFailed(
        "FILE_CHANGED", f"a file of the study changed or disappeared {when}; run again when it no longer changes"
    )
