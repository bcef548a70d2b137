"""A folder in which another program drops CT: what has settled is taken into the spool; the folder is only read.

A file is taken when its size, time and number did not change for the settling time. One that is cut off by then is
waited for longer. Names of files may hold a patient's: the log names none, and the database has their digests.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy import delete, insert, select

from app.pacs import trail
from app.pacs.arrivals import Identity, Origin
from app.pacs.database.engine import AWAY
from app.pacs.database.tables import watched
from app.pacs.intake import CLASS_NOT_SUPPORTED, OUT_OF_RESOURCES, STORED_CLASSES, Intake, Refused, transfer_syntax
from app.pacs.service import Service
from app.pacs.watch_settings import WatchSettings
from operators.dicom.enhanced_ct import sop_class
from operators.dicom.read_header import read_instance
from operators.errors import SeriesRejected
from operators.system_error import system_reason

logger = logging.getLogger(__name__)

SOURCE: Final = "WATCH"
"""What rules (`from_ae`) name as the sender."""

ENTERED_AT_ONCE: Final = 200
_PIECE: Final = 1 << 20
_END_OF_FRAGMENTS: Final = b"\xfe\xff\xdd\xe0\0\0\0\0"

State = tuple[int, int, int]
"""Size, time of change in ns, and number of a file."""


@dataclass(slots=True)
class Watcher:
    """Looks into a folder again and again.

    Attributes:
        intake: where the files go.
        folder: that is looked into, with all below it.
        settings: when a file has settled.
        clock: in seconds.
        service: the loop.
    """

    intake: Intake
    folder: Path
    settings: WatchSettings
    clock: Callable[[], float] = time.monotonic
    service: Service = field(init=False)
    _taken: dict[str, tuple[int, int]] | None = None
    _waiting: dict[str, tuple[State, float]] = field(default_factory=dict)
    _entries: dict[str, tuple[int, int]] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Set up the loop."""
        self.service = Service("watcher of the folder", self.settings.poll_s)

    def run(self) -> None:
        """Look again and again until the service is stopped."""
        self.service.run(self.turn)

    def turn(self) -> None:
        """Look once; what keeps files from being taken is said once."""
        hindrance = ""
        try:
            self.step()
        except OSError as error:
            hindrance = f"the watched folder cannot be read: {system_reason(error)}; trying again"
        except Refused as refused:
            hindrance = f"a file was not taken ({refused.why}); files wait"
        self.service.hindered(hindrance)

    def step(self) -> int:
        """Look once; how many files were taken.

        Raises:
            Refused: the disk is full or the database away; what is left is taken the next time.
            OSError: the folder cannot be read.
        """
        taken, count, seen = self._known(), 0, set[str]()
        try:
            for path, state in _files(self.folder, self._unreadable):
                name = _digest(path)
                seen.add(name)
                if taken.get(name) == state[:2]:
                    continue
                if self._waiting.get(name, (None,))[0] != state:
                    self._waiting[name] = state, self.clock()
                try:
                    if self._is_due(path, self._waiting[name][1]):
                        count += self._take(path, state)
                except OSError as error:
                    self._unreadable(error)
                except (Refused, *AWAY):
                    raise
                except Exception as error:
                    self._broke(name, error)
                    logger.debug("the watcher of the folder", exc_info=True)
                self.service.check_stop()
            self._forget(seen)
        finally:
            self._enter()
        return count

    def _is_due(self, path: Path, since: float) -> bool:
        waited = self.clock() - since
        return waited >= self.settings.cut_off_s or (waited >= self.settings.settle_s and is_whole(path))

    def _unreadable(self, error: OSError) -> None:
        """Log once that a file or folder cannot be read; the others go on.

        Raises:
            OSError: it is the watched folder itself.
        """
        if error.filename is not None and Path(error.filename) == self.folder:
            raise error
        name = _digest(Path(error.filename or ""))
        if not isinstance(error, FileNotFoundError) and name not in self._told:
            self._told.add(name)
            logger.warning("a file in the watched folder cannot be read: %s", system_reason(error))

    def _broke(self, name: str, error: Exception) -> None:
        """Log once that a file cannot be taken because of a fault of ours; it waits, and the others go on."""
        if name not in self._told:
            self._told.add(name)
            logger.error("INTERNAL_ERROR: %s at a file of the watched folder; it waits", type(error).__name__)

    def _take(self, path: Path, state: State) -> bool:
        """Take a file in; False where it was there, is left alone, or has changed meanwhile."""
        if not transfer_syntax(path):
            self._note(path, state)  # no DICOM file
            return False
        incoming = self.intake.spool.open_incoming(swept=False)
        try:
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    incoming.write(piece)
                if _state(os.fstat(file.fileno())) != state:
                    return False
            kept = self.intake.take_in_file(incoming, Origin(SOURCE), _anything)
        except Refused as refused:
            if refused.status == OUT_OF_RESOURCES:
                raise
            self._note(path, state)
            if refused.status != CLASS_NOT_SUPPORTED:  # an SR or a report beside the CT is no fault
                logger.warning("a file of the watched folder was refused: %s", refused.why)
                trail.refused(SOURCE, "", refused.why)
            return False
        finally:
            incoming.discard()
        self._note(path, state)
        if kept:
            logger.info("watched folder: kept %s", kept.path)
        return kept is not None

    def _known(self) -> dict[str, tuple[int, int]]:
        if self._taken is None:
            with self.intake.database.read() as connection:
                rows = connection.execute(select(watched.c.name_digest, watched.c.size_bytes, watched.c.changed_ns))
                self._taken = {row.name_digest: (row.size_bytes, row.changed_ns) for row in rows}
        return self._taken

    def _note(self, path: Path, state: State) -> None:
        """Remember that a file is done with; entered together, for a kill in between costs a second look alone."""
        self._entries[_digest(path)] = state[:2]
        self._waiting.pop(_digest(path), None)
        if len(self._entries) >= ENTERED_AT_ONCE:
            self._enter()

    def _enter(self) -> None:
        entries = self._entries
        if not entries:
            return
        values = [
            {"name_digest": name, "size_bytes": size, "changed_ns": changed}
            for name, (size, changed) in entries.items()
        ]
        with self.intake.database.begin() as connection:
            connection.execute(delete(watched).where(watched.c.name_digest.in_(entries)))
            connection.execute(insert(watched), values)
        self._known().update(entries)
        self._entries = {}

    def _forget(self, seen: Set[str]) -> None:
        """Forget files that are gone; of an empty folder nothing, for its file system may not be mounted."""
        known = self._known()
        gone = [name for name in known if name not in seen] if seen else []
        self._waiting = {name: one for name, one in self._waiting.items() if name in seen}
        for start in range(0, len(gone), ENTERED_AT_ONCE):
            some = gone[start : start + ENTERED_AT_ONCE]
            with self.intake.database.begin() as connection:
                connection.execute(delete(watched).where(watched.c.name_digest.in_(some)))
            for name in some:
                del known[name]


def is_whole(path: Path) -> bool:
    """Return whether a file holds all its pixels; True also for what is no CT image, so not worth waiting for."""
    try:
        instance = read_instance(path)
    except SeriesRejected:
        return False
    if instance is None:
        return True
    pixels = instance.pixels
    if pixels is None:
        return sop_class(instance.header) not in STORED_CLASSES
    if pixels.stated is not None:
        return pixels.there >= pixels.stated
    with path.open("rb") as file:
        file.seek(-len(_END_OF_FRAGMENTS), os.SEEK_END)
        return file.read() == _END_OF_FRAGMENTS


def _files(folder: Path, on_error: Callable[[OSError], None]) -> Iterator[tuple[Path, State]]:
    """Yield the regular files below a folder, in a fixed order, without following links."""
    for parent, folders, names in os.walk(folder, onerror=on_error):
        folders.sort()
        for path in (Path(parent, name) for name in sorted(names)):
            try:
                about = path.lstat()
            except OSError as error:
                on_error(error)
                continue
            if stat.S_ISREG(about.st_mode):
                yield path, _state(about)


def _state(about: os.stat_result) -> State:
    return about.st_size, about.st_mtime_ns, about.st_ino


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()


def _anything(who: Identity) -> None:
    """Accept a file: nobody said what it is."""
