"""Notes that lie on the disk while a command runs, so that a million of them take no more memory than a thousand."""

from __future__ import annotations

import hashlib
import sqlite3
import weakref
from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

from operators.errors import CtvaeError

V = TypeVar("V", str, bytes)
_SETTINGS: Final = ("journal_mode = OFF", "synchronous = OFF", "cache_size = -16000")  # kB


def short(text: str) -> bytes:
    """Return 16 bytes that stand for a text, a key that is as long for every text."""
    return hashlib.sha256(text.encode()).digest()[:16]


class DiskMap(Generic[V]):
    """Keys and values in a temporary file, which ends with the map."""

    def __init__(self) -> None:
        """Make an empty map."""
        self._notes = _Notes("CREATE TABLE note (key BLOB PRIMARY KEY, value) WITHOUT ROWID")

    def get(self, key: bytes) -> V | None:
        """Return the value of a key; None where there is none."""
        found = self._notes.ask("SELECT value FROM note WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None

    def enter(self, key: bytes, value: V) -> V | None:
        """Enter a value for a new key; return the value that a known key has already, which stays."""
        entered = self._notes.ask("INSERT OR IGNORE INTO note VALUES (?, ?)", (key, value))
        return None if entered.rowcount else self.get(key)


class DiskList:
    """Pairs of a name and a text in a temporary file, which are read sorted by name."""

    def __init__(self) -> None:
        """Make an empty list."""
        self._notes = _Notes("CREATE TABLE note (name BLOB, text)")

    def extend(self, pairs: Iterable[tuple[bytes, str]]) -> None:
        """Add pairs."""
        for pair in pairs:
            self._notes.ask("INSERT INTO note VALUES (?, ?)", pair)

    def __contains__(self, name: bytes) -> bool:
        """Return whether a name is there; this reads all of them."""
        return self._notes.ask("SELECT 1 FROM note WHERE name = ? LIMIT 1", (name,)).fetchone() is not None

    def __iter__(self) -> Iterator[tuple[bytes, str]]:
        """Yield the pairs."""
        return self._notes.each("SELECT name, text FROM note ORDER BY name")


class _Notes:
    """A database of one table in a temporary file; where that does not fit, the error says so.

    Its maps and lists end in generators and behind errors, so it is closed with the last reference to it.
    """

    def __init__(self, table: str) -> None:
        # An empty name stands for a temporary file. The garbage collector may close it in another thread.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self._database.close)
        for setting in _SETTINGS:
            self.ask(f"PRAGMA {setting}")
        self.ask(table)
        self.ask("BEGIN")  # one transaction without an end: each of its own costs ten times as much

    def ask(self, query: str, values: tuple[bytes | str, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._database.execute(query, values)
        except sqlite3.Error as error:
            raise _no_room(error) from error

    def each(self, query: str) -> Iterator[tuple[bytes, str]]:
        try:
            yield from self._database.execute(query)
        except sqlite3.Error as error:
            raise _no_room(error) from error


def _no_room(error: sqlite3.Error) -> CtvaeError:
    text = f"cannot write into the folder for temporary files ({error}); free space there, or set TMPDIR to another"
    return CtvaeError("INPUT_OUTPUT_ERROR", text)
