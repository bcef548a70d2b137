"""Files that appear complete or not at all, and groups of files that appear together or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from operators.errors import SeriesFailed
from operators.system_error import system_reason

_MODE: Final = 0o644  # minus what the umask forbids


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files so that either all of them appear, complete, or none.

    They are written under temporary names and renamed when all fit on the disk. If a rename fails or is interrupted,
    the earlier ones are undone and the previous files put back.

    Raises:
        SeriesFailed: `OUTPUT_UNWRITABLE`: the disk is full or the folder is not writable.
    """
    staged: list[tuple[Path, Path]] = []
    with _unwritable(next(iter(contents)).name):
        try:
            for path, content in contents.items():
                staged.append((_temporary(path), path))
                with _opened(staged[-1][0]) as file:
                    file.write(content)
            _rename_together(staged)
        finally:
            for temporary, _ in staged:
                temporary.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that gets its name if the block succeeds, and is removed if it does not.

    Raises:
        SeriesFailed: `OUTPUT_UNWRITABLE`: the disk is full or the folder is not writable.
    """
    temporary = _temporary(path)
    with _unwritable(path.name):
        try:
            with _opened(temporary) as file:
                yield file
            temporary.replace(path)
            fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, names: str) -> None:
    """Remove unfinished files of a killed run, with names that fit a pattern, from this folder and those below."""
    for file in folder.glob(names):
        if file.name.startswith(".") and file.name.endswith(".partial"):
            file.unlink(missing_ok=True)


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder, and those above it, where they are missing, and write their names to the disk.

    The folder's own name is written even if it is there: whoever made it may have been killed before that.

    Raises:
        OSError: the disk is full or the folder above is not ours.
    """
    missing = [one for one in folder.parents if not one.exists()]
    folder.mkdir(mode, parents=True, exist_ok=True)
    for one in (*reversed(missing), folder):
        fsync_folder(one.parent)


def fsync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _rename_together(staged: Sequence[tuple[Path, Path]]) -> None:
    kept: list[tuple[Path, Path | None]] = []
    try:
        for temporary, path in staged:
            before = _temporary(path) if path.exists() else None
            kept.append((path, before))
            if before:
                _keep(path, before)
            temporary.replace(path)
    except BaseException:
        for (path, before), (temporary, _) in zip(kept, staged, strict=False):
            _put_back(path, before, renamed=not temporary.exists())
        raise
    for _, before in kept:
        if before:
            before.unlink(missing_ok=True)
    for folder in {path.parent for _, path in staged}:
        fsync_folder(folder)


def _keep(path: Path, before: Path) -> None:
    """Give an existing file a second name, or another name where the file system has no links."""
    try:
        os.link(path, before)
    except OSError:
        path.replace(before)


def _put_back(path: Path, before: Path | None, *, renamed: bool) -> None:
    """Undo one rename as far as the file system allows; the first error is the one reported."""
    with suppress(OSError):
        if before and before.exists():
            before.replace(path)
            before.unlink(missing_ok=True)  # renaming one of two links to a file to the other leaves both
        elif renamed and before is None:
            path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file, which is on the disk when the block ends."""
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _MODE), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _unwritable(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        text = f"cannot write {name} into the output folder: {system_reason(error)}"
        raise SeriesFailed("OUTPUT_UNWRITABLE", text) from error
