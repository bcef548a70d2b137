"""What ended → the tables of a partition, written sorted in a last step: the same bytes whatever the way to them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from app.cohort.ended import Ended
from app.table.columns import Column, Layout
from app.table.result import Cell
from app.table.write import Row, open_table
from operators import __version__
from operators.errors import StartError
from operators.results.atomic import atomic_file
from operators.results.write_json import NOTICE

TABLES: Final = "tables"
FEATURES: Final = "features"
FAILURES: Final = "failures.parquet"
PLACES: Final = "places.parquet"
PART_ROWS: Final = 50_000
BATCH_ROWS: Final = 2048
JOB_KEY: Final = Column("job_key", "string", "identity of the job: instances, part, weights and configuration")
_FAILURES: Final = (
    Column("series_instance_uid", "string", "SeriesInstanceUID; of an unreadable file a UID made from its digest"),
    Column("part", "int32", "part of a series that was split; empty for a whole series"),
    Column("study_instance_uid", "string", "StudyInstanceUID; empty where it is not known"),
    Column("status", "string", "rejected, skipped or failed"),
    Column("reason", "string", "reason code; docs/codes.md"),
    Column("message", "string", "what was found, what was expected, what to do"),
    Column("findings", "string", "codes of findings, separated by spaces"),
    Column("places", "string", "folders of the series, separated by newlines; they may hold names"),
)
_PLACES: Final = (
    Column("series_instance_uid", "string", "SeriesInstanceUID"),
    Column("part", "int32", "part of a series that was split; empty for a whole series"),
    Column("place", "string", "folder of the series below DATA; it may hold a name"),
)


def write_tables(
    ended: Iterable[Ended], partition: Path, model_digest: str, reports: Callable[[], Mapping[str, bytes]]
) -> None:
    """Write the tables of a partition in the place of earlier ones, all of them or none.

    Args:
        ended: every series, sorted.
        partition: folder of the partition.
        model_digest: SHA-256 of the weights.
        reports: called after the last series; name → content of further files.

    Raises:
        SeriesFailed: `OUTPUT_UNWRITABLE`.
        OSError: likewise.
    """
    new, old, tables = (partition / name for name in (f".{TABLES}.partial", f".{TABLES}.old", TABLES))
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    (new / FEATURES).mkdir(parents=True)
    about = {"ctvae_version": __version__, "notice": NOTICE}
    with (
        _features_table(new / FEATURES, about | {"model_digest": model_digest}) as feature,
        open_table(new / FAILURES, _FAILURES, about, BATCH_ROWS) as failure,
        open_table(new / PLACES, _PLACES, about, BATCH_ROWS) as place,
    ):
        for one in ended:
            if one.row is None:
                failure(_failure(one))
            else:
                feature(one)
            for row in _places(one):
                place(row)
    for name, content in reports().items():
        with atomic_file(new / name) as file:
            file.write(content)
    if tables.exists():
        tables.rename(old)
    new.rename(tables)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _features_table(folder: Path, about: Mapping[str, str]) -> Iterator[Callable[[Ended], None]]:
    """Open the table of features, a file for each `PART_ROWS` rows; yield a function that appends a row."""
    lengths: Mapping[str, int] = {}
    append_row: Callable[[Row], None]
    rows = 0
    with ExitStack() as part:

        def append(one: Ended) -> None:
            nonlocal lengths, rows, append_row
            lengths = lengths or one.lengths or {}
            if rows % PART_ROWS == 0:
                part.close()
                columns = (*Layout(lengths, with_paths=False).columns(), JOB_KEY)
                file = folder / f"part-{rows // PART_ROWS:05d}.parquet"
                append_row = part.enter_context(open_table(file, columns, about, BATCH_ROWS))
            append_row(_features(one, lengths))
            rows += 1

        yield append


def _features(one: Ended, lengths: Mapping[str, int]) -> dict[str, Cell]:
    if one.lengths != lengths:
        raise StartError("BUNDLE_CHANGED", "two series have other dimensions; remove the partition and start again")
    return {**(one.row or {}), JOB_KEY.name: one.job_key}


def _failure(one: Ended) -> dict[str, Cell]:
    outcome = one.outcome
    return {
        "series_instance_uid": outcome.series_instance_uid,
        "part": outcome.part,
        "study_instance_uid": one.study or None,
        "status": outcome.status,
        "reason": outcome.reason,
        "message": outcome.message,
        "findings": " ".join(dict.fromkeys(finding.code for finding in outcome.findings)),
        "places": "\n".join(one.places),
    }


def _places(one: Ended) -> Iterator[dict[str, Cell]]:
    for place in one.places:
        yield {"series_instance_uid": one.outcome.series_instance_uid, "part": one.outcome.part, "place": place}
