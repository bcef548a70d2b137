"""The spool: what arrived, on the disk before it is acknowledged, readable by its owner alone.

    FOLDER/spool/incoming/…                            while it arrives
    FOLDER/spool/instances/SERIES/SOP.dcm              kept: fsynced, then linked to its name, then the folder fsynced
    FOLDER/spool/instances/SERIES/SOP.copy1.dcm        other content under the same UID, kept apart

A name is given with a link, which fails where the name is taken, so nothing that was acknowledged is ever overwritten,
whoever else writes here. A network file system must have that, and an fsync that reaches its disk (NFS has both).
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.pacs.hooks import passing
from app.pacs.incoming import Incoming
from app.process import starting
from operators.results.atomic import fsync_folder
from operators.uids import file_sha256

logger = logging.getLogger(__name__)

SAFE_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)+")
"""Digits and dots, none of them alone: a name without a way out of its folder."""

_NAME: Final = re.compile(rf"({SAFE_UID.pattern})(?:\.copy([0-9]+))?\.dcm")
MAX_COPIES: Final = 1000
Same = Callable[[Path, Path], bool]


def is_safe_uid(uid: str) -> bool:
    """Return whether a UID may become a file name (PS3.5 9.1; leading zeros, which real UIDs have, are accepted)."""
    return len(uid) <= 64 and SAFE_UID.fullmatch(uid) is not None


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of the spool.

    Attributes:
        path: relative to the spool.
        series_uid: by the folder's name.
        sop_uid: by the file's.
        copy: 0 for what came first under this UID.
    """

    path: str
    series_uid: str
    sop_uid: str
    copy: int


class Spool:
    """A folder of instances."""

    def __init__(self, root: Path, reserve_bytes: int, max_object_bytes: int) -> None:
        """Open it, and make it where it is missing.

        Args:
            root: of the spool.
            reserve_bytes: space that stays free: an object that would need it is refused.
            max_object_bytes: a longer object is refused.

        Raises:
            StartError: `NOT_ACCESSIBLE`.
        """
        self.root, self.reserve_bytes, self.max_object_bytes = root.resolve(), reserve_bytes, max_object_bytes
        self._incoming, self._instances = self.root / "incoming", self.root / "instances"
        self._open, self._lock = dict[str, Incoming](), threading.Lock()  # by name: a path's hash is slow
        self._named = set[str]()  # series whose folder's name this process has seen on the disk
        with starting():
            for folder in (self.root, self._incoming, self._instances):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                folder.chmod(0o700)
            fsync_folder(self.root)

    def open_incoming(self, *, swept: bool = True) -> Incoming:
        """Open a file for what is arriving; whoever calls must `discard` it, else `sweep` does, unless told not to.

        Args:
            swept: of an association, which may end without a word; it is to be `take`n when all of it is there.
        """
        path = self._incoming / f"{secrets.token_hex(8)}.partial"
        incoming = Incoming(path, self.has_room, self.max_object_bytes)
        if swept:
            with self._lock:
                self._open[incoming.name] = incoming
        return incoming

    def has_room(self) -> bool:
        """Return whether more than the reserve is free."""
        room = os.statvfs(self._incoming)
        return room.f_bavail * room.f_frsize > self.reserve_bytes

    def take(self, path: Path) -> Incoming | None:
        """Take over a file that arrived from the sweeper; None where that was faster, for the association ended."""
        with self._lock:
            return self._open.pop(str(path), None)

    def keep(
        self, incoming: Incoming, series_uid: str, sop_uid: str, same: Same, purged: Collection[int] = ()
    ) -> tuple[Kept, bool]:
        """Put a file on the disk under its name, or the next free copy's.

        Args:
            incoming: taken over before.
            series_uid: of the data set.
            sop_uid: likewise.
            same: whether two files of other bytes have the same content.
            purged: numbers of copies that are gone, whose names are not given again.

        Returns:
            The file, and whether it is new; a name that has the same content already is given back as it is.

        Raises:
            ValueError: a UID that is no file name.
            OSError: the disk is full or not ours; nothing is left behind.
        """
        if not (is_safe_uid(series_uid) and is_safe_uid(sop_uid)):
            raise ValueError("a UID that is not digits and dots")
        incoming.to_disk()
        folder = self._instances / series_uid
        try:
            folder.mkdir(mode=0o700)
            passing("receive.mkdir.after")
        except FileExistsError:
            pass  # by another thread, or before a kill: its name may not be on the disk yet
        if series_uid not in self._named:
            fsync_folder(self._instances)
            self._named.add(series_uid)
        for copy in range(MAX_COPIES):
            if copy in purged:
                continue
            path = folder / (f"{sop_uid}.copy{copy}.dcm" if copy else f"{sop_uid}.dcm")
            if self._linked(incoming, path):
                return self._kept(path, sop_uid, copy), True
            if file_sha256(path) == incoming.digest or same(path, incoming.path):
                fsync_folder(folder)  # its name may have come from one that was killed before it did this
                return self._kept(path, sop_uid, copy), False
        raise OSError(errno.EEXIST, "too many copies under one SOP Instance UID")

    def _linked(self, incoming: Incoming, path: Path) -> bool:
        passing("receive.rename.before")
        try:
            os.link(incoming.path, path)
        except FileExistsError:
            return False
        passing("receive.rename.after")
        try:
            fsync_folder(path.parent)
        except OSError:
            path.unlink()
            raise
        passing("receive.fsync_folder.after")
        return True

    def _kept(self, path: Path, sop_uid: str, copy: int) -> Kept:
        return Kept(path.relative_to(self.root).as_posix(), path.parent.name, sop_uid, copy)

    def files(self) -> Iterator[Kept]:
        """Yield all files of the spool, in the order of their names; a file with another kind of name is not ours."""
        with os.scandir(self._instances) as folders:
            names = sorted(entry.name for entry in folders if entry.is_dir(follow_symlinks=False))
        for series_uid in filter(is_safe_uid, names):
            with os.scandir(self._instances / series_uid) as entries:
                files = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
            for name in files:
                if match := _NAME.fullmatch(name):
                    path = f"{self._instances.name}/{series_uid}/{name}"
                    yield Kept(path, series_uid, match[1], int(match[3] or 0))

    def sweep(self) -> None:
        """Remove what associations that have ended left half arrived."""
        with self._lock:
            left = [one for one in self._open.values() if not one.writer.is_alive()]
            for incoming in left:
                del self._open[incoming.name]
        for incoming in left:
            try:
                incoming.discard()
            except OSError as error:  # the next start removes it
                logger.error("INPUT_OUTPUT_ERROR: an incomplete object stays in the spool (%s)", error.strerror)
            else:
                logger.warning("an incomplete object was removed (%d bytes)", incoming.size)

    def sweep_at_start(self, older_than_s: float = 0.0) -> None:
        """Remove what a process that was killed left half arrived; other listeners' files are younger, and stay."""
        for path in self._incoming.glob("*.partial"):
            with suppress(FileNotFoundError):
                age = _now_there(self._incoming) - path.stat().st_mtime
                if age >= older_than_s:
                    path.unlink()


def _now_there(folder: Path) -> float:
    """Return the time by the file system's clock, which may be that of a file server."""
    probe = folder / f".{secrets.token_hex(8)}.clock"
    with probe.open("xb"):
        stamp = probe.stat().st_mtime
    probe.unlink()
    return stamp
