"""Files of a cohort → one row each in a scratch database: what its header says, and its size and time of change.

A file whose size and time are those of its row is not read again. Rows are committed as they come, so that a scan that
is killed goes on where it was; nothing of it is held in memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from operator import attrgetter
from os import fsencode
from pathlib import Path
from typing import Final

from app.cohort.look import Chunk, Known, Look, Stamp, row_of
from app.cohort.row import Row
from app.cohort.source import Source
from operators.input.archives import is_archive
from operators.types import Outcome

CHUNK_FILES: Final = 100

COLUMNS: Final = tuple(field.name for field in fields(Row))
_values: Final = attrgetter(*COLUMNS)
_TABLE: Final = f"""
CREATE TABLE IF NOT EXISTS file ({", ".join(COLUMNS)}, seen INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (archive, path))
WITHOUT ROWID
"""
_PUT: Final = f"INSERT OR REPLACE INTO file ({', '.join(COLUMNS)}, seen) VALUES ({', '.join('?' * len(COLUMNS))}, ?)"  # noqa: S608
_OF_FILE: Final = ("archive = x'' AND path = ?", "archive = ?")
"""The row of a file of its own, and those of an archive: two questions, for each has an index."""
_AGAIN: Final = """CASE kind WHEN 'unreadable' THEN json_extract(about, '$.status') = 'failed'
WHEN 'image' THEN about <> '' ELSE 0 END"""
"""What could not be opened is tried again, and so is a header whose voxels are in another file."""


class FileScan:
    """The scratch database of one scan.

    Attributes:
        changed: whether any row was added, replaced or removed.
    """

    def __init__(self, file: Path) -> None:
        """Open it; a scan that was killed left its rows there."""
        self._database = sqlite3.connect(file)
        self._database.execute("PRAGMA synchronous = OFF")  # a machine that is killed costs the scratch, not the cohort
        self._database.execute(_TABLE)
        with self._database:
            self._database.execute("UPDATE file SET seen = 0 WHERE seen = 1")
        self._empty = self._database.execute("SELECT 1 FROM file LIMIT 1").fetchone() is None
        self.changed = False

    def close(self) -> None:
        """Close it; what was committed stays."""
        self._database.close()

    def load(self, rows: Iterable[Row]) -> None:
        """Take over the rows of an earlier index."""
        with self._database:
            self._database.executemany(_PUT, ((*_values(row), 0) for row in rows))
        self._empty = False

    def run(self, source: Source, look: Look, on_files: Callable[[int], None]) -> None:
        """Update the rows to the present state of the files.

        Args:
            source: the files.
            look: reads their headers.
            on_files: called with the number of files looked at so far.
        """
        done = 0
        for chunk, looked in look(self._chunks(source)):
            for file, rows in zip(chunk.files, looked, strict=True):
                if rows is None:
                    self._mark(file.name)
                else:
                    self._replace(file.name, rows)
            self._database.commit()
            done += len(chunk.files)
            on_files(done)
        self.changed |= self._database.execute("DELETE FROM file WHERE seen = 0").rowcount > 0
        self._database.commit()

    def rows(self) -> int:
        """Return the number of rows."""
        return int(self._database.execute("SELECT count(*) FROM file").fetchone()[0])

    def select(self, query: str) -> Iterator[tuple[object, ...]]:
        """Yield the rows of a query."""
        return iter(self._database.execute(query))

    def _chunks(self, source: Source) -> Iterator[Chunk]:
        """Yield the files that are to be looked at; what is known without that is entered here."""
        some: list[Known] = []
        for found in source.files():
            if isinstance(found, Outcome):
                name = fsencode(found.file or found.folder)
                self._replace(name, [row_of(found, name)])
            elif isinstance(found, Row):
                self._replace(found.path, [found])
            else:
                name = fsencode(found.relative_to(source.root))
                some.append(Known(name, self._stamp(name)))
                if is_archive(found):  # it may hold thousands: a chunk of its own
                    yield Chunk(source.root, (some.pop(),))
                elif len(some) == CHUNK_FILES:
                    yield Chunk(source.root, tuple(some))
                    some = []
        if some:
            yield Chunk(source.root, tuple(some))

    def _stamp(self, name: bytes) -> Stamp | None:
        """Return the state of a file or an archive as its rows know it; None where it is to be read in any case."""
        if self._empty:
            return None
        for where in _OF_FILE:
            query = f"SELECT size, mtime_ns, max({_AGAIN}) FROM file WHERE {where}"  # noqa: S608
            size, mtime_ns, again = self._database.execute(query, (name,)).fetchone()
            if size is not None:
                return None if again else (size, mtime_ns)
        return None

    def _mark(self, name: bytes) -> None:
        """Set the rows of a file or an archive as seen: they are those of its present state."""
        for where in _OF_FILE:
            self._database.execute(f"UPDATE file SET seen = 1 WHERE {where}", (name,))  # noqa: S608

    def _replace(self, name: bytes, rows: Sequence[Row]) -> None:
        """Enter the rows of a file or an archive in the place of those that are there."""
        new = [_values(row) for row in rows]
        if not self._empty:
            before: list[tuple[object, ...]] = []
            for where in _OF_FILE:
                before += self._database.execute(f"SELECT {', '.join(COLUMNS)} FROM file WHERE {where}", (name,))  # noqa: S608
                self._database.execute(f"DELETE FROM file WHERE {where}", (name,))  # noqa: S608
            self.changed |= set(before) != set(new)
        self.changed |= self._empty
        self._database.executemany(_PUT, ((*values, 1) for values in new))
