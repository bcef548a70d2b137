"""Some files of a cohort → their rows: what each header says. The part of the index that workers do.

The chunks are small, so that a process that dies costs little; a file that kills its process costs itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from os import fsdecode, fsencode
from pathlib import Path
from typing import Final

from app.cohort.row import Row
from app.cohort.source import open_archive
from operators.dicom.header_values import HeaderValues
from operators.dicom.read_header import plain_uids
from operators.errors import SeriesFailed
from operators.input.archives import is_archive
from operators.input.files import InputRoots, not_opened
from operators.instance import Instance
from operators.read_study import read_file, stated_uids
from operators.types import Outcome
from operators.uids import uid_from_digest

Stamp = tuple[int, int]
"""Size and time of change of a file, in ns."""

MISSING: Final = (-1, -1)


@dataclass(frozen=True, slots=True)
class Known:
    """A file by its path, and what is known of it.

    Attributes:
        name: path relative to the root, as the system has it.
        stamp: of its rows; None where it is to be read in any case.
    """

    name: bytes
    stamp: Stamp | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Files that one process looks at.

    Attributes:
        root: folder that all of them lie below.
    """

    root: Path
    files: tuple[Known, ...]

    def each(self) -> Iterator[Chunk]:
        """Yield a chunk for each of its files."""
        return (Chunk(self.root, (file,)) for file in self.files)


Looked = list[list[Row] | None]
"""For each file of a chunk its rows, several for an archive; None where those that are known are right."""

Look = Callable[[Iterable[Chunk]], Iterator[tuple[Chunk, Looked]]]
"""Looks at chunks in any order; they are taken one by one."""


def look_here(chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, Looked]]:
    """Look at chunks in this process."""
    return ((chunk, look(chunk)) for chunk in chunks)


def look(chunk: Chunk) -> Looked:
    """Return the rows of the files that are new or changed."""
    values = HeaderValues()  # what headers share is held for as long as this is
    return [_rows(file, chunk.root, values) for file in chunk.files]


def given_up(chunk: Chunk, error: SeriesFailed) -> Looked:
    """Return rows that say that the files could not be read."""
    return [[_given_up(file.name, chunk.root, error)] for file in chunk.files]


def row_of(outcome: Outcome, name: bytes, stamp: Stamp = MISSING, archive: bytes = b"") -> Row:
    """Return the row of a file that cannot be read or opened."""
    values = {name: getattr(outcome, name) for name in ("series_instance_uid", "status", "reason", "message", "file")}
    return Row(archive, name, *stamp, "unreadable", "", "", outcome.folder, json.dumps(values))


def _rows(file: Known, root: Path, values: HeaderValues) -> list[Row] | None:
    path = root / fsdecode(file.name)
    roots = InputRoots(root)
    try:
        status = path.stat()
        stamp = status.st_size, status.st_mtime_ns
        if stamp == file.stamp:
            return None
        if not is_archive(path):
            return [_read(path, b"", file.name, stamp, roots, values)]
        with open_archive(path, root) as archive:
            inside = [(one, fsencode(one.relative_to(archive.folder))) for one in archive.paths]
            rows = [_read(one, file.name, name, stamp, archive.roots, values) for one, name in inside]
            return rows + [
                row_of(one, fsencode(one.file or one.folder), stamp, archive=file.name) for one in archive.closed
            ]
    except OSError as error:
        return [row_of(not_opened(path, path.parent, roots, error), file.name)]


def _read(path: Path, archive: bytes, name: bytes, stamp: Stamp, roots: InputRoots, values: HeaderValues) -> Row:
    with suppress(OSError):  # `read_file` says what is wrong
        if uids := plain_uids(path):
            return Row(archive, name, *stamp, "dicom", *uids, roots.folder(path.parent), "")
    found = read_file(path, roots, values)
    if isinstance(found, Outcome):
        return row_of(found, name, stamp, archive)
    if not isinstance(found, Instance):
        return Row(archive, name, *stamp, "other", "", "", "", "")
    if found.image:
        elsewhere = "" if found.image.voxels == path else "its voxels are in another file"
        return Row(archive, name, *stamp, "image", "", found.sop_instance_uid, roots.folder(path), elsewhere)
    return Row(archive, name, *stamp, "dicom", *stated_uids(found), roots.folder(path.parent), "")


def _given_up(name: bytes, root: Path, error: SeriesFailed) -> Row:
    roots, path = InputRoots(root), root / fsdecode(name)
    uid, place = uid_from_digest(hashlib.sha256(name).hexdigest()), roots.folder(path)
    folder = roots.folder(path.parent)
    return row_of(Outcome(uid, None, folder, error.status, error.reason, error.message, file=place), name)
