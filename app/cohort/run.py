"""A cohort from its files to its tables: what `ctvae cohort` does."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from app.cohort.encode_unit import Files, Work
from app.cohort.ended import Ended, EndedStore
from app.cohort.index import Index, bring_up_to_date
from app.cohort.indexed_series import INDEX, note_root
from app.cohort.local import Limits, Team
from app.cohort.look import Look
from app.cohort.on_ray import Cluster, encode_on_ray
from app.cohort.partition import Partition, check_same_data, open_partition, work_of
from app.cohort.report import Facts, Tally, html_report, text_report
from app.cohort.scan import CHUNK_FILES
from app.cohort.server import Server
from app.cohort.site_key import site_key
from app.cohort.source import Source, open_source
from app.cohort.tables import TABLES, write_tables
from app.cohort.units import Unit
from app.console import Report, counted, progress
from app.exit_codes import FAILED, NOTHING_WRITTEN, WRITTEN
from app.extras import require
from app.open_pipeline import open_pipeline
from app.output_lock import output_lock
from app.process import starting
from app.settings import Settings, check_output
from operators.errors import RunFailed, StartError
from operators.job import log_outcome

ENDED_FILE: Final = "ended.sqlite"
REPORT: Final = "report.txt"
PAGE: Final = "report.html"


@dataclass(frozen=True, slots=True)
class Options:
    """How a cohort is encoded, beside its settings.

    Attributes:
        limits: of the processes.
        files: which files each series gets beside its row.
        cluster: encode there; None for processes of this machine.
    """

    limits: Limits
    files: Files = "none"
    cluster: Cluster | None = None


@dataclass(frozen=True, slots=True)
class _Left:
    """What is to be done.

    Attributes:
        units: all of them.
        left: how many are not done.
        state: digest of the whole input as it is indexed.
        gone: names of the units that are no more; the store has forgotten them.
    """

    units: int
    left: int
    state: str
    gone: list[str]


def run_cohort(data: Path | Server, output: Path, models: Path | None, settings: Settings, options: Options) -> int:
    """Encode a cohort, or what is left of it.

    Args:
        data: a folder tree, a CSV of paths, a DICOMDIR or a DICOMweb server.
        output: folder for index, partitions and reports.
        models: a bundle or a folder of bundles; None for the shipped one.
        settings: selection, geometry, privacy, taps.
        options: engine and files.

    Returns:
        The exit code of the contract, of the whole cohort.

    Raises:
        StartError: the data, the output, the bundle or the settings are wrong.
        RunFailed: `OUTPUT_UNWRITABLE`: the disk is full; `SERVER_FAILED`; what was finished is kept.
    """
    require("pyarrow")
    if options.cluster:
        require("ray")
    if isinstance(data, Server):
        require("dicomweb_client")
    source = open_source(data, output)
    check_output(output)
    with _full_disk(), output_lock(output):
        check_same_data(output, source)
        folder = output / INDEX
        with starting():
            folder.mkdir(exist_ok=True)
        note_root(folder, source)
        settings = replace(settings, card=(), parametric_map=False)
        if settings.privacy.site_key is None:
            settings = replace(settings, privacy=replace(settings.privacy, site_key=site_key(folder)))
        files = _count(source)
        with _team(options.limits) as team:
            team.start(0 if source.server else -(-files // CHUNK_FILES))
            pipeline = open_pipeline(settings, models, None)
            partition = open_partition(output, settings, pipeline, options.files)
            work = work_of(source, settings, models, pipeline, partition, options.files)
            del pipeline
            index = _indexed(source, folder, team.look, files)
            with closing(EndedStore(partition.folder / ENDED_FILE)) as store:
                return _encoded(index, store, partition, work, options, team)


@contextmanager
def _team(limits: Limits) -> Iterator[Team]:
    """Yield processes that end with the block, however it ends."""
    team = Team(limits)
    try:
        yield team
    finally:
        team.end()


@contextmanager
def _full_disk() -> Iterator[None]:
    """Raise an error that says what to do where the disk is full."""
    try:
        yield
    except sqlite3.Error as error:
        raise _unwritable("the output folder or the one for temporary files, TMPDIR", str(error)) from error
    except OSError as error:
        raise _unwritable("the output folder", error.strerror or type(error).__name__) from error


def _unwritable(where: str, cause: str) -> RunFailed:
    text = f"cannot write into {where} ({cause}); what was finished is kept: free space, then run again"
    return RunFailed("OUTPUT_UNWRITABLE", text)


def _count(source: Source) -> int:
    with progress("listing files") as report:
        total = source.count(lambda files: report(files, 0))
    if total:
        return total
    raise StartError(
        "NO_DATA", "no file in DATA; give a folder, a CSV of paths, a DICOMDIR or a DICOMweb server with CT in it"
    )


def _indexed(source: Source, folder: Path, look: Look, total: int) -> Index:
    with progress("reading headers") as report:
        return bring_up_to_date(source, folder, look, report, total)


def _encoded(index: Index, store: EndedStore, partition: Partition, work: Work, options: Options, team: Team) -> int:
    with progress("looking for what is to be done") as report:
        todo = _look(index, store, report)
    for name in todo.gone:
        shutil.rmtree(work.results / Unit.folder_of(name), ignore_errors=True)
    tables = partition.folder / TABLES
    if todo.left or partition.complete() != todo.state or not tables.is_dir():
        partition.write(None)
        with progress("encoding studies") as report:
            pace = _Pace(report, todo.left)
            units = (unit for unit in index.units() if not store.is_done(unit))

            def enter(unit: Unit, ended: Sequence[Ended]) -> None:
                store.enter(unit, ended)
                for one in ended:
                    log_outcome(one.outcome)
                pace(ended)

            if todo.left and options.cluster:
                team.end()  # the cluster has its own
                encode_on_ray(units, todo.left, work, options.cluster, options.limits, enter)
            elif todo.left:
                team.encode(units, work, enter)
        store.enter_files(index.unreadable())
        with progress("writing tables") as report:
            _write(index, store, partition, todo, report)
    sys.stdout.write((tables / REPORT).read_text(encoding="utf-8"))
    return _exit_code(store)


def _look(index: Index, store: EndedStore, report: Report) -> _Left:
    """Read all units once; find those to encode, and those whose files are gone."""
    digest, units, left, files, total = hashlib.sha256(), 0, 0, 0, index.rows()

    def names() -> Iterator[str]:
        nonlocal units, left, files
        for unit in index.units():
            files += len(unit.files)
            report(files, total)
            digest.update(f"{unit.name}\n{unit.fingerprint}\n".encode())
            units += 1
            left += not store.is_done(unit)
            yield unit.name

    gone = store.forget_others(names())
    for outcome, place in index.unreadable():
        digest.update(f"{outcome.series_instance_uid} {outcome.reason} {outcome.message}\n{place}\n".encode())
    return _Left(units, left, digest.hexdigest(), gone)


def _write(index: Index, store: EndedStore, partition: Partition, todo: _Left, report: Report) -> None:
    """Write tables and reports, and say that they are whole."""
    tally = Tally()
    model = partition.about["model"]

    def ended() -> Iterator[Ended]:
        for one in counted(store.all(), store.statuses().total(), "writing tables", report):
            tally.count(one)
            yield one

    def reports() -> dict[str, bytes]:
        bundle_text = f"{model['name']} {model['version']}, weights {model['weights_sha256'][:12]}"
        facts = Facts(bundle_text, partition.name, index.counts(), todo.units)
        return {REPORT: text_report(tally, facts).encode(), PAGE: html_report(tally, facts).encode()}

    write_tables(ended(), partition.folder, model["weights_sha256"], reports)
    partition.write(todo.state)


def _exit_code(store: EndedStore) -> int:
    statuses = store.statuses()
    if statuses["failed"]:
        return FAILED
    return WRITTEN if statuses["written"] else NOTHING_WRITTEN


class _Pace:
    """Shows how far the encoding is, how fast it goes and what failed."""

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._total = report, total
        self._began, self._units = time.monotonic(), 0
        self._statuses: Counter[str] = Counter()

    def __call__(self, ended: Sequence[Ended]) -> None:
        """Count one more unit."""
        self._units += 1
        self._statuses.update(one.outcome.status for one in ended)
        minutes = (time.monotonic() - self._began) / 60
        rate = f"{self._units / minutes:.0f}" if minutes else "–"
        note = f"{rate}/min, {self._statuses['rejected']} series rejected, {self._statuses['failed']} failed"
        self._report(self._units, max(self._total, self._units), note=note)


def default_workers(device: str) -> int:
    """Return the number of processes that encode: one for each core that this one may use; one where a GPU encodes."""
    from models.runtime import cuda_devices

    return 1 if device != "cpu" and cuda_devices() else cores()


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
