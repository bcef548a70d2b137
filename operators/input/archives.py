"""ZIP archives in the input → private temporary folders, for as long as a run lasts.

An archive is judged as a whole before a byte of it is unpacked. What could lead out of its folder, fill the disk, or is
not what it seems is refused, and so is what this program cannot unpack: half of a study is worse than none.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

from operators.errors import SeriesError, SeriesFailed, SeriesRejected

logger = logging.getLogger(__name__)

MAX_ENTRIES: Final = 100_000
"""Of one archive: 4D perfusion and whole-body studies have 20,000 slices."""

MAX_BYTES: Final = 32 << 30
"""Of all archives of a run, unpacked: 60,000 slices of 512² are 31 GB."""

MAX_RATIO: Final = 100
"""Of an archive's size unpacked to its own. CT is packed to a third or half; deflate alone can reach 1032."""

RATIO_FREE_BYTES: Final = 64 << 20
"""What an archive may always unpack to: phantoms and masks are nearly empty."""

MAX_DIRECTORY_BYTES: Final = 48 << 20
"""Of an archive's list of entries, which is read before these can be counted: 480 for each of 100,000."""

SPARE_BYTES: Final = 1 << 30
"""Left free on the disk that the temporary folder is on: others use it too."""

_ARCHIVES: Final = (".zip", ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".7z", ".rar")
# What zipfile raises on bytes that are not what they say: on a name of no characters it is an IndexError.
_BROKEN: Final = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, IndexError, KeyError, TypeError),
    *(AttributeError, RuntimeError, OverflowError, MemoryError, NotImplementedError),
)
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MAX_NAME: Final = 1024
_MAX_FOLDERS: Final = 32  # in one another
_ENCRYPTED: Final = 0x1


@dataclass(frozen=True, slots=True)
class Archive:
    """One ZIP archive of the input.

    Attributes:
        path: its file.
        name: relative to the input; it may hold a name, so it is for `outcome.json` alone.
        folder: where it is unpacked; None where it is not.
        refused: why it is not.
    """

    path: Path
    name: str
    folder: Path | None = None
    refused: SeriesError | None = None


def is_archive(path: Path) -> bool:
    """Return whether a file is named as a ZIP archive."""
    return path.suffix.lower() == ".zip"


@contextmanager
def unpacked(source: Path) -> Iterator[tuple[Archive, ...]]:
    """Every ZIP archive that the input is or holds, unpacked until the block ends, however it ends.

    Args:
        source: a folder, an archive, or a file that is none; links are not followed.

    Yields:
        The archives in the order of their names; those that were refused too.
    """
    found = _archives(source)
    if not found:
        yield ()
        return
    with tempfile.TemporaryDirectory(prefix="ctvae-", ignore_cleanup_errors=True) as temporary:
        yield tuple(_unpack_all(found, Path(temporary)))


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
        Its size unpacked.

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
        what = f"the ZIP archive cannot be unpacked ({type(error).__name__}); get it again"
        raise SeriesRejected("UNREADABLE_FILE", what) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if error.errno in (None, errno.EINVAL):  # a place before the file's beginning: it is the archive's fault
            raise SeriesRejected("UNREADABLE_FILE", "the ZIP archive is damaged; get it again") from error
        raise SeriesFailed(
            "INPUT_OUTPUT_ERROR", f"the ZIP archive was not unpacked: {reason}; check the disk"
        ) from error


def _opened(file: BinaryIO) -> zipfile.ZipFile:
    bounded: Any = _Bounded(file)
    return zipfile.ZipFile(bounded)


class _Bounded:
    """An open archive of which no more is read at once than a list of entries may have.

    The list is as long as the archive says, and each entry in it takes ten times its bytes in memory.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.seek, self.tell, self.seekable = file, file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes.

        Raises:
            SeriesRejected: `UNSAFE_ARCHIVE`, beyond `MAX_DIRECTORY_BYTES`.
        """
        if size > MAX_DIRECTORY_BYTES:
            raise _unsafe(f"a list of entries of {size} bytes", f"at most {MAX_DIRECTORY_BYTES}")
        return self._file.read(size)


def _check_names(entries: Sequence[zipfile.ZipInfo]) -> None:
    """Check that each entry is a file or folder of its own below the archive's folder, and one that can be unpacked."""
    if len(entries) > MAX_ENTRIES:
        raise _unsafe(f"{len(entries)} entries", f"at most {MAX_ENTRIES}")
    files = {str(PurePosixPath(entry.filename)) for entry in entries if not entry.is_dir()}
    if len(files) < sum(not entry.is_dir() for entry in entries):
        raise _unsafe("two files of the same name", "each name once")
    for entry in entries:
        name, mode = entry.filename, entry.external_attr >> 16
        path = PurePosixPath(name)
        if _leads_out(name):
            raise _unsafe("a name that leads out of the archive, or is too long", "names below it")
        if any(str(parent) in files for parent in path.parents):
            raise _unsafe("a file that is a folder too", "either")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _unsafe("a link or device", "files and folders")
        if name.lower().endswith(_ARCHIVES):
            raise _unsafe("an archive in the archive", "images; unpack it first")
        if entry.flag_bits & _ENCRYPTED:
            raise SeriesRejected("UNREADABLE_FILE", "the ZIP archive is encrypted; expected one without a password")
        if entry.compress_type not in _METHODS:
            raise SeriesRejected("UNREADABLE_FILE", "the ZIP archive is not packed with deflate; pack it again")


def _leads_out(name: str) -> bool:
    parts = PurePosixPath(name).parts
    odd = "\\" in name or "\0" in name or bool(re.match(r"[A-Za-z]:", name)) or len(name) > _MAX_NAME
    long = len(parts) > _MAX_FOLDERS or any(len(os.fsencode(part)) > 255 for part in parts)  # no file system takes it
    return odd or long or not parts or name.startswith("/") or ".." in parts


def _checked_size(entries: Sequence[zipfile.ZipInfo], packed: int, left: int) -> int:
    size = sum(entry.file_size for entry in entries)
    if size > max(RATIO_FREE_BYTES, MAX_RATIO * packed):
        raise _unsafe(f"{size} bytes packed into {packed}", f"at most {MAX_RATIO} times the archive's size")
    if size > left:
        raise _unsafe(f"{size} bytes unpacked", f"at most {max(0, left)}, which the limit and the disk leave")
    return size


def _unpack_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    """Its bytes, as many as it says at the most, into a file that nobody else can read."""
    target = folder / PurePosixPath(entry.filename)
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as packed, target.open("xb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    if target.stat().st_size != entry.file_size:
        raise zipfile.BadZipFile("another size than the archive says")


def _text(name: str) -> str:
    """Return a path as text that can be written: what is not UTF-8 is lost."""
    return os.fsencode(name).decode(errors="replace")


def _unsafe(found: str, expected: str) -> SeriesRejected:
    return SeriesRejected("UNSAFE_ARCHIVE", f"found {found}; expected {expected}; unpack it by hand if you trust it")
