"""The index of a cohort: every file below DATA once, in Parquet, sorted by what is encoded together.

It is brought up to date at each start: a file whose size and time of change are as they were is not read again. Its
paths may hold names, so it stays with the results and is not for publication.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.cohort.look import Look, look_here
from app.cohort.row import Row
from app.cohort.scan import COLUMNS, FileScan
from app.cohort.source import Source
from app.cohort.units import Unit
from app.console import Report, counted, no_report
from operators.results.atomic import atomic_file, remove_unfinished
from operators.types import Outcome

if TYPE_CHECKING:
    import pyarrow as pa

FILES: Final = "files.parquet"
SCRATCH: Final = ".scan.sqlite"
_BATCH_ROWS: Final = 20_000
_UNIT: Final = """CASE WHEN kind NOT IN ('dicom', 'image') THEN '' WHEN kind = 'image' THEN 'image ' || file.series
WHEN study <> '' THEN 'study ' || study WHEN file.series <> '' THEN 'series ' || file.series
ELSE 'folder ' || file.folder END"""
_NOTES: Final = (
    "CREATE TEMP TABLE lost (folder PRIMARY KEY, files) WITHOUT ROWID",
    "INSERT INTO lost SELECT folder, count(*) FROM file WHERE kind = 'unreadable' GROUP BY folder",
    "CREATE TEMP TABLE shared (series PRIMARY KEY, studies) WITHOUT ROWID",
    """INSERT INTO shared SELECT series, count(DISTINCT study) FROM file WHERE kind = 'dicom' AND series <> ''
GROUP BY series HAVING count(DISTINCT study) > 1""",
)
_SORTED: Final = f"""SELECT {_UNIT} AS unit, {", ".join(f"file.{name}" for name in COLUMNS)},
iif({_UNIT} = '', 0, coalesce(lost.files, 0)), coalesce(shared.studies, 0)
FROM file LEFT JOIN lost USING (folder) LEFT JOIN shared USING (series) ORDER BY unit, archive, path"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Index:
    """A finished index.

    Attributes:
        file: the Parquet file.
    """

    file: Path

    def units(self) -> Iterator[Unit]:
        """Yield what is to be encoded, in a fixed order, one unit in memory at a time."""
        rows = (row for row in self._rows() if row["unit"])
        for name, group in groupby(rows, key=lambda row: row["unit"]):
            members = list(group)
            yield Unit(
                name,
                tuple(_row(one) for one in members),
                {one["folder"]: one["lost"] for one in members if one["lost"]},
                {one["series"]: one["shared"] for one in members if one["shared"]},
            )

    def unreadable(self) -> Iterator[tuple[Outcome, str]]:
        """Yield the files that cannot be read, each with its place."""
        for row in self._rows():
            if row["unit"]:
                return  # those without a unit are sorted before all others
            if row["kind"] == "unreadable":
                about = json.loads(row["about"])
                place = about.pop("file") or row["folder"]
                yield Outcome(part=None, folder=row["folder"], **about), place

    def counts(self) -> dict[str, int]:
        """Return the number of files of each kind, and of archives."""
        counts = dict.fromkeys(("dicom", "image", "unreadable", "other", "bytes"), 0)
        for row in self._rows(("kind", "size", "archive")):
            counts[row["kind"]] += 1
            counts["bytes"] += 0 if row["archive"] else max(0, row["size"])
        return counts

    def rows(self) -> int:
        """Return the number of files."""
        import pyarrow.parquet as pq

        return int(pq.read_metadata(self.file).num_rows)

    def _rows(self, columns: tuple[str, ...] | None = None) -> Iterator[dict[str, Any]]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.file) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns) if columns else None):
                yield from batch.to_pylist()


def bring_up_to_date(
    source: Source, folder: Path, look: Look = look_here, report: Report = no_report, files: int = 0
) -> Index:
    """Index the files of a cohort.

    Args:
        source: where they are.
        folder: of the index.
        look: reads their headers; workers may.
        report: shows the progress.
        files: how many there were when they were counted.

    Raises:
        SeriesFailed: `OUTPUT_UNWRITABLE`.
        sqlite3.Error: the disk is full.
    """
    index, scratch = Index(folder / FILES), folder / SCRATCH
    remove_unfinished(folder, f".{FILES}.*")
    resumed = scratch.exists()
    try:
        scan = FileScan(scratch)
    except sqlite3.DatabaseError:  # a kill of the machine itself may leave anything; it is only scratch
        scratch.unlink()
        resumed, scan = False, FileScan(scratch)
    with closing(scan):
        if not resumed and index.file.exists():
            rows = counted(index._rows(), index.rows(), "reading the index of the last run", report)
            scan.load(_row(row) for row in rows)
        began = time.monotonic()

        def looked(done: int) -> None:
            note = f"{done / max(time.monotonic() - began, 0.001):.0f} files/s"
            report(done, max(done, files), "reading headers", note)

        scan.run(source, look, looked)
        if resumed or scan.changed or not index.file.exists():
            _write(scan, index.file, report)
    for left in folder.glob(f"{SCRATCH}*"):
        left.unlink()
    return index


def _write(scan: FileScan, file: Path, report: Report) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, names = _schema(), ("unit", *COLUMNS, "lost", "shared")
    report(0, 0, "sorting the index")
    for note in _NOTES:
        scan.select(note)
    rows = counted(scan.select(_SORTED), scan.rows(), "writing the index", report)
    with atomic_file(file) as opened, pq.ParquetWriter(opened, schema, compression="zstd") as table:
        while batch := [dict(zip(names, row, strict=True)) for row in islice(rows, _BATCH_ROWS)]:
            table.write_table(pa.Table.from_pylist(batch, schema=schema))


def _schema() -> pa.Schema:
    import pyarrow as pa

    binary, number = ("archive", "path"), ("size", "mtime_ns", "lost", "shared")
    names = ("unit", *COLUMNS, "lost", "shared")
    types = {name: pa.binary() if name in binary else pa.int64() if name in number else pa.string() for name in names}
    return pa.schema(types.items())


def _row(row: Mapping[str, Any]) -> Row:
    return Row(**{name: row[name] for name in COLUMNS})
