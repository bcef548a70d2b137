"""The index of a cohort: every file below DATA once, in Parquet, sorted by what is encoded together.

It is brought up to date at each start: a file whose size and time of change are as they were is not read again. Its
paths may hold names, so it stays with the results and is not for publication.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.cohort.look import Look, look_here
from app.cohort.row import Row
from app.cohort.scan import COLUMNS, FileScan
from app.cohort.source import Source
from app.cohort.units import Unit
from operators.results.atomic import atomic_file, remove_unfinished
from operators.types import Outcome

if TYPE_CHECKING:
    import pyarrow as pa

FILES: Final = "files.parquet"
SCRATCH: Final = ".scan.sqlite"
_BATCH_ROWS: Final = 20_000
_UNIT: Final = """CASE WHEN kind NOT IN ('dicom', 'image') THEN '' WHEN kind = 'image' THEN 'image ' || series
WHEN study <> '' THEN 'study ' || study WHEN series <> '' THEN 'series ' || series ELSE 'folder ' || folder END"""
_SORTED: Final = f"SELECT {_UNIT} AS unit, {', '.join(COLUMNS)} FROM file ORDER BY unit, archive, path"  # noqa: S608
_SHARED: Final = """SELECT series, count(DISTINCT study) FROM file WHERE kind = 'dicom' AND series <> ''
GROUP BY series HAVING count(DISTINCT study) > 1"""
_LOST: Final = "SELECT folder, count(*) FROM file WHERE kind = 'unreadable' GROUP BY folder"


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

    def _rows(self, columns: tuple[str, ...] | None = None) -> Iterator[dict[str, Any]]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.file) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns) if columns else None):
                yield from batch.to_pylist()


def bring_up_to_date(
    source: Source, folder: Path, look: Look = look_here, on_files: Callable[[int], None] = lambda done: None
) -> Index:
    """Index the files of a cohort.

    Args:
        source: where they are.
        folder: of the index.
        look: reads their headers; workers may.
        on_files: called with the number of files looked at so far.

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
            scan.load(_row(row) for row in index._rows())
        scan.run(source, look, on_files)
        if resumed or scan.changed or not index.file.exists():
            _write(scan, index.file)
    for left in folder.glob(f"{SCRATCH}*"):
        left.unlink()
    return index


def _write(scan: FileScan, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    shared = {str(series): count for series, count in scan.select(_SHARED)}
    lost = {str(folder): count for folder, count in scan.select(_LOST)}
    with atomic_file(file) as opened, pq.ParquetWriter(opened, _schema(), compression="zstd") as table:
        batch: list[dict[str, Any]] = []
        for unit, *values in scan.select(_SORTED):
            row: dict[str, Any] = {"unit": unit, **dict(zip(COLUMNS, values, strict=True))}
            row |= {"lost": lost.get(row["folder"], 0) if unit else 0, "shared": shared.get(row["series"], 0)}
            batch.append(row)
            if len(batch) == _BATCH_ROWS:
                table.write_table(pa.Table.from_pylist(batch, schema=_schema()))
                batch = []
        if batch:
            table.write_table(pa.Table.from_pylist(batch, schema=_schema()))


def _schema() -> pa.Schema:
    import pyarrow as pa

    binary, number = ("archive", "path"), ("size", "mtime_ns", "lost", "shared")
    names = ("unit", *COLUMNS, "lost", "shared")
    types = {name: pa.binary() if name in binary else pa.int64() if name in number else pa.string() for name in names}
    return pa.schema(types.items())


def _row(row: Mapping[str, Any]) -> Row:
    return Row(**{name: row[name] for name in COLUMNS})
