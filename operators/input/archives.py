"""ZIP archives in the input → private temporary folders, which last as long as the run.

Each archive is checked as a whole before any of it is unpacked. An archive is refused if it could write outside its
folder, fill the disk or is not what it claims to be, and if ctvae cannot unpack it: half a study is worse than none.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

from operators.errors import SeriesError, SeriesFailed, SeriesRejected
from operators.system_error import system_reason
from operators.temporary_folder import temporary_folder

logger = logging.getLogger(__name__)

MAX_ENTRIES: Final = 100_000
"""Limit for one archive: 4D perfusion and whole-body studies have 20,000 slices."""

MAX_BYTES: Final = 32 << 30
"""Limit for all archives of a run, unpacked: 60,000 slices of 512² are 31 GB."""

MAX_RATIO: Final = 100
"""Limit for the ratio of unpacked to packed size. CT packs to a third or half; deflate alone can reach 1032."""

RATIO_FREE_BYTES: Final = 64 << 20
"""Unpacked size that is always allowed: phantoms and masks are nearly empty."""

MAX_DIRECTORY_BYTES: Final = 48 << 20
"""Limit for an archive's list of entries, read before they can be counted: 480 bytes for each of 100,000 entries."""

SPARE_BYTES: Final = 1 << 30
"""Space to leave free on the disk of the temporary folder: others use it too."""

_ARCHIVES: Final = (".zip", ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".7z", ".rar")
# What zipfile raises on inconsistent bytes; for an empty name it raises an IndexError.
_BROKEN: Final = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, IndexError, KeyError, TypeError),
    *(AttributeError, RuntimeError, OverflowError, MemoryError, NotImplementedError),
)
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MAX_NAME: Final = 1024
_MAX_FOLDERS: Final = 32  # nested
_ENCRYPTED: Final = 0x1


@dataclass(frozen=True, slots=True)
class Archive:
    """One ZIP archive of the input.

    Attributes:
        path: the archive's file.
        name: path relative to the input; it may hold a patient's name, so it appears only in `outcome.json`.
        folder: where it is unpacked; None where it was refused.
        refused: why it was refused.
    """

    path: Path
    name: str
    folder: Path | None = None
    refused: SeriesError | None = None


def is_archive(path: Path) -> bool:
    """Return whether a file has the name of a ZIP archive."""
    return path.suffix.lower() == ".zip"


@contextmanager
def unpacked(source: Path) -> Iterator[tuple[Archive, ...]]:
    """Unpack every ZIP archive that the input is or holds, until the block ends, however it ends.

    Args:
        source: a folder, an archive or another file; links are not followed.

    Yields:
        The archives in the order of their names, including those refused.
    """
    found = _archives(source)
    if not found:
        yield ()
        return
    with temporary_folder(ignore_errors=True) as temporary:
        yield tuple(_unpack_all(found, temporary))


def _archives(source: Path) -> list[Archive]:
    if source.is_file():
        return [Archive(source, _text(source.name))] if is_archive(source) else []
    found = []
    for folder, _, names in os.walk(source):
        paths = [Path(folder, name) for name in names]
        found += [path for path in paths if is_archive(path) and path.is_file() and not path.is_symlink()]
    return [Archive(path, _text(path.relative_to(source).as_posix())) for path in sorted(found, key=os.fspath)]


def _unpack_all(archives: Sequence[Archive], temporary: Path) -> Iterator[Archive]:
    left = min(MAX_BYTES, shutil.disk_usage(temporary).free - SPARE_BYTES)
    for number, archive in enumerate(archives):
        folder = temporary / str(number)
        try:
            left -= _unpack(archive.path, folder, left)
            yield Archive(archive.path, archive.name, folder)
        except SeriesError as error:
            shutil.rmtree(folder, ignore_errors=True)
            yield Archive(archive.path, archive.name, refused=error)


def _unpack(path: Path, folder: Path, left: int) -> int:
    """Unpack an archive into a new folder.

    Returns:
        Its unpacked size in bytes.

    Raises:
        SeriesRejected: `UNSAFE_ARCHIVE` or `UNREADABLE_FILE`.
        SeriesFailed: `INPUT_OUTPUT_ERROR`.
    """
    folder.mkdir(mode=0o700)
    try:
        with path.open("rb") as file, _opened(file) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check_names(archive.infolist())
            size = _checked_size(entries, path.stat().st_size, left)
            for entry in entries:
                _unpack_entry(archive, entry, folder)
            return size
    except _BROKEN as error:
        message = f"the ZIP archive cannot be unpacked ({type(error).__name__}); get it again"
        raise SeriesRejected("UNREADABLE_FILE", message) from error
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # an offset before the start of the file: the archive is wrong
            raise SeriesRejected("UNREADABLE_FILE", "the ZIP archive is damaged; get it again") from error
        text = f"the ZIP archive was not unpacked: {system_reason(error)}"
        raise SeriesFailed("INPUT_OUTPUT_ERROR", text) from error


def _opened(file: BinaryIO) -> zipfile.ZipFile:
    bounded: Any = _Bounded(file)
    return zipfile.ZipFile(bounded)


class _Bounded:
    """An open archive that limits one read to the size of the largest list of entries allowed.

    The archive itself states how long its list is, and each entry takes ten times its bytes in memory.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.seek, self.tell, self.seekable = file, file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes.

        Raises:
            SeriesRejected: `UNSAFE_ARCHIVE` for more than `MAX_DIRECTORY_BYTES`.
        """
        if size > MAX_DIRECTORY_BYTES:
            raise _unsafe(f"a list of entries of {size} bytes", f"at most {MAX_DIRECTORY_BYTES}")
        return self._file.read(size)


def _check_names(entries: Sequence[zipfile.ZipInfo]) -> None:
    """Check that each entry is a separate file or folder inside the archive's folder, and that it can be unpacked."""
    if len(entries) > MAX_ENTRIES:
        raise _unsafe(f"{len(entries)} entries", f"at most {MAX_ENTRIES}")
    files = {str(PurePosixPath(entry.filename)) for entry in entries if not entry.is_dir()}
    if len(files) < sum(not entry.is_dir() for entry in entries):
        raise _unsafe("two files of the same name", "each name once")
    for entry in entries:
        name, mode = entry.filename, entry.external_attr >> 16
        path = PurePosixPath(name)
        if _leads_out(name):
            raise _unsafe("a name that leads outside the archive or is too long", "names inside it")
        if any(str(parent) in files for parent in path.parents):
            raise _unsafe("a path that is both file and folder", "one or the other")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _unsafe("a link or device", "files and folders")
        if name.lower().endswith(_ARCHIVES):
            raise _unsafe("an archive in the archive", "images; unpack it first")
        if entry.flag_bits & _ENCRYPTED:
            raise SeriesRejected("UNREADABLE_FILE", "the ZIP archive is encrypted; expected one without a password")
        if entry.compress_type not in _METHODS:
            raise SeriesRejected(
                "UNREADABLE_FILE",
                "the ZIP archive is packed by a method other than deflate; pack it again with deflate",
            )


def _leads_out(name: str) -> bool:
    parts = PurePosixPath(name).parts
    odd = "\\" in name or "\0" in name or bool(re.match(r"[A-Za-z]:", name)) or len(name) > _MAX_NAME
    long = len(parts) > _MAX_FOLDERS or any(
        len(os.fsencode(part)) > 255 for part in parts
    )  # too long for any file system
    return odd or long or not parts or name.startswith("/") or ".." in parts


def _checked_size(entries: Sequence[zipfile.ZipInfo], packed: int, left: int) -> int:
    size = sum(entry.file_size for entry in entries)
    if size > max(RATIO_FREE_BYTES, MAX_RATIO * packed):
        raise _unsafe(f"{size} bytes packed into {packed}", f"at most {MAX_RATIO} times the archive's size")
    if size > left:
        raise _unsafe(f"{size} bytes unpacked", f"at most {max(0, left)}, which the limit and the disk leave")
    return size


def _unpack_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    """Unpack one entry, at most as many bytes as it declares, into a file that only this user can read."""
    target = folder / PurePosixPath(entry.filename)
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as packed, target.open("xb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    if target.stat().st_size != entry.file_size:
        raise zipfile.BadZipFile("the size differs from what the archive states")


def _text(name: str) -> str:
    """Return a path as text that can be written; bytes that are not UTF-8 are replaced."""
    return os.fsencode(name).decode(errors="replace")


def _unsafe(found: str, expected: str) -> SeriesRejected:
    return SeriesRejected("UNSAFE_ARCHIVE", f"found {found}; expected {expected}; unpack it by hand if you trust it")
