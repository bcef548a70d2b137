"""Files of a cohort → one row each in a scratch database: what its header says, and its size and time of change.

A file whose size and time are those of its row is not read again. Rows are committed as they come, so that a scan that
is killed goes on where it was; nothing of it is held in memory.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, fields
from os import fsencode
from pathlib import Path
from typing import Final

from app.cohort.row import Row
from app.cohort.source import Source, open_archive
from operators.dicom.read_header import HeaderValues
from operators.input.archives import is_archive
from operators.input.files import InputRoots, not_opened
from operators.instance import Instance
from operators.read_study import read_file, stated_uids
from operators.types import Outcome

COMMIT_EVERY: Final = 500
_MISSING: Final = -1


COLUMNS: Final = tuple(field.name for field in fields(Row))
_TABLE: Final = f"""
CREATE TABLE IF NOT EXISTS file ({", ".join(COLUMNS)}, seen INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (archive, path))
WITHOUT ROWID
"""
_PUT: Final = f"INSERT OR REPLACE INTO file ({', '.join(COLUMNS)}, seen) VALUES ({', '.join('?' * len(COLUMNS))}, ?)"  # noqa: S608


class FileScan:
    """The scratch database of one scan.

    Attributes:
        changed: whether any row was added, replaced or removed.
    """

    def __init__(self, file: Path) -> None:
        """Open it; a scan that was killed left its rows there."""
        self._database = sqlite3.connect(file)
        self._database.execute(_TABLE)
        with self._database:
            self._database.execute("UPDATE file SET seen = 0 WHERE seen = 1")
        self.changed = False

    def close(self) -> None:
        """Close it; what was committed stays."""
        self._database.close()

    def load(self, rows: Iterable[Row]) -> None:
        """Take over the rows of an earlier index."""
        with self._database:
            self._database.executemany(_PUT, ((*astuple(row), 0) for row in rows))

    def run(self, source: Source, on_file: Callable[[int], None]) -> None:
        """Update the rows to the present state of the files.

        Args:
            source: the files.
            on_file: called with the number of files looked at so far.
        """
        values = HeaderValues()
        for done, found in enumerate(source.files(), 1):
            if isinstance(found, Outcome):
                path = fsencode(found.file or found.folder)
                self._put([_ended(found, b"", path, (_MISSING, _MISSING))])
            elif isinstance(found, Row):
                if not self._known("archive = x'' AND path = ?", found.path, (found.size, found.mtime_ns)):
                    self._put([found])
            else:
                self._look_at(found, source, values)
            if done % COMMIT_EVERY == 0:
                self._database.commit()
                values = HeaderValues()  # what headers share is held for as long as this is
            on_file(done)
        self.changed |= self._database.execute("DELETE FROM file WHERE seen = 0").rowcount > 0
        self._database.commit()

    def select(self, query: str) -> Iterator[tuple[object, ...]]:
        """Yield the rows of a query."""
        return iter(self._database.execute(query))

    def _look_at(self, path: Path, source: Source, values: HeaderValues) -> None:
        name = fsencode(path.relative_to(source.root))
        try:
            stamp = _stamp(path)
            if is_archive(path):
                self._archive(path, name, stamp, source)
            elif not self._known("archive = x'' AND path = ?", name, stamp):
                self._put([_read(path, b"", name, stamp, source.roots, values)])
        except OSError as error:
            ended = not_opened(path, path.parent, source.roots, error)
            self._put([_ended(ended, b"", name, (_MISSING, _MISSING))])

    def _archive(self, path: Path, name: bytes, stamp: tuple[int, int], source: Source) -> None:
        if self._known("archive = ?", name, stamp):
            return
        with self._database:  # all of its rows or none: that they are there says that it was read
            self._database.execute("DELETE FROM file WHERE archive = ?", (name,))
            with open_archive(path, source.root) as archive:
                values = HeaderValues()
                for one in archive.paths:
                    inside = fsencode(one.relative_to(archive.folder))
                    self._put([_read(one, name, inside, stamp, archive.roots, values)])
                self._put([_ended(one, name, fsencode(one.file or one.folder), stamp) for one in archive.closed])

    def _known(self, where: str, name: bytes, stamp: tuple[int, int]) -> bool:
        """Return whether the rows of a file or an archive are those of its present state; they are then marked as seen.

        What could not be opened is tried again, and so is a header whose voxels are in another file.
        """
        state = "seen = 1 WHERE size = ? AND mtime_ns = ?"
        again = "kind = 'unreadable' AND json_extract(about, '$.status') = 'failed' OR kind = 'image' AND about <> ''"
        tried = self._database.execute(f"SELECT 1 FROM file WHERE {where} AND ({again}) LIMIT 1", (name,))  # noqa: S608
        if tried.fetchone():
            return False
        marked = self._database.execute(f"UPDATE file SET {state} AND {where}", (*stamp, name))  # noqa: S608
        return marked.rowcount > 0

    def _put(self, rows: list[Row]) -> None:
        for row in rows:
            before = self._database.execute(
                f"SELECT {', '.join(COLUMNS)} FROM file WHERE archive = ? AND path = ?",  # noqa: S608
                (row.archive, row.path),
            ).fetchone()
            self.changed |= before != astuple(row)
            self._database.execute(_PUT, (*astuple(row), 1))


def _read(
    path: Path, archive: bytes, name: bytes, stamp: tuple[int, int], roots: InputRoots, values: HeaderValues
) -> Row:
    found = read_file(path, roots, values)
    if isinstance(found, Outcome):
        return _ended(found, archive, name, stamp)
    if not isinstance(found, Instance):
        return Row(archive, name, *stamp, "other", "", "", "", "")
    if found.image:
        elsewhere = "" if found.image.voxels == path else "its voxels are in another file"
        return Row(archive, name, *stamp, "image", "", found.sop_instance_uid, roots.folder(path), elsewhere)
    return Row(archive, name, *stamp, "dicom", *stated_uids(found), roots.folder(path.parent), "")


def _ended(outcome: Outcome, archive: bytes, name: bytes, stamp: tuple[int, int]) -> Row:
    values = {name: getattr(outcome, name) for name in ("series_instance_uid", "status", "reason", "message", "file")}
    return Row(archive, name, *stamp, "unreadable", "", "", outcome.folder, json.dumps(values))


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
