"""From rows to a file, batch by batch, so that a table of a million rows takes no more memory than a thousand."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Final, Self

import numpy as np

from app.table.columns import Column, arrow_schema
from app.table.result import Cell
from operators.errors import StartError
from operators.results.atomic import atomic_file

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS: Final = (".parquet", ".csv")
BATCH_VALUES: Final = 1 << 18
GROUP_BYTES: Final = 32 << 20
"""Size of a row group in memory. Its description, 80 kB of a hundred columns, stays there until the file ends."""


Row = Mapping[str, Cell]


class ParquetTable:
    """Writes rows to Parquet, Zstandard-compressed, in row groups of whole batches."""

    def __init__(self, file: IO[bytes], columns: Sequence[Column], about: Mapping[str, str]) -> None:
        import pyarrow.parquet as pq

        self._schema = arrow_schema(columns, about)
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")
        self._group: list[pa.RecordBatch] = []

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        import pyarrow as pa

        self._group.append(pa.RecordBatch.from_pylist(list(rows), schema=self._schema))
        if sum(batch.nbytes for batch in self._group) >= GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_batches(self._group, self._schema))
        self._group.clear()

    def __enter__(self) -> Self:
        """Return the open table."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Write the last rows and the footer."""
        if self._group and not error:
            self._write_group()
        self._writer.close()


class CsvTable:
    """Writes rows to CSV in UTF-8; a number is the shortest text that reads back to the same float32."""

    def __init__(self, file: IO[bytes], columns: Sequence[Column]) -> None:
        self._columns = columns
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        self._csv = csv.writer(self._text, lineterminator="\n")
        self._csv.writerow([column.name for column in columns])

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        self._csv.writerows([[_cell(row[column.name], column.type) for column in self._columns] for row in rows])

    def __enter__(self) -> Self:
        """Return the open table."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Flush the buffer; the file stays open."""
        self._text.detach()


@contextmanager
def open_table(
    path: Path, columns: Sequence[Column], about: Mapping[str, str], batch_rows: int
) -> Iterator[Callable[[Row], None]]:
    """Open a table and yield a function that appends a row to it.

    The file appears, complete, when the block ends, and not at all if it fails.

    Args:
        path: a name in one of `FORMATS`.
        columns: of the table.
        about: metadata of the table.
        batch_rows: number of rows that are held until they are written.

    Raises:
        StartError: `BAD_TABLE_NAME` or `OUTPUT_UNWRITABLE`.
        SeriesFailed: `OUTPUT_UNWRITABLE`.
    """
    check_name(path)
    with atomic_file(path) as file:
        kind = ParquetTable(file, columns, about) if path.suffix == ".parquet" else None
        with kind or CsvTable(file, columns) as table:
            batch: list[Row] = []

            def append(row: Row) -> None:
                batch.append(row)
                if len(batch) >= batch_rows:
                    table.write(batch)
                    batch.clear()

            yield append
            if batch:
                table.write(batch)


def check_name(path: Path) -> None:
    """Check that the file's name ends in a known format, and that its folder exists.

    Raises:
        StartError: `BAD_TABLE_NAME` or `OUTPUT_UNWRITABLE`.
    """
    if not path.parent.is_dir():
        raise StartError("OUTPUT_UNWRITABLE", f"there is no folder for {path.name!r}; create it first")
    if path.suffix not in FORMATS:
        raise StartError("BAD_TABLE_NAME", f"the table is named {path.name!r}; expected a name in .parquet or .csv")


def _cell(value: Cell, kind: str) -> str:
    if value is None:
        return ""
    return str(np.float32(value)) if kind == "float" else str(value)
