"""Notes on the rows of a table that lie on the disk, so that a million rows take no more memory than a thousand."""

from __future__ import annotations

import sqlite3
from typing import Generic, TypeVar

V = TypeVar("V", str, bytes)


class DiskMap(Generic[V]):
    """Keys and values in a temporary file, which ends with the map."""

    def __init__(self) -> None:
        """Make an empty map."""
        self._database = sqlite3.connect("", isolation_level=None)  # an empty name stands for a temporary file
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("PRAGMA cache_size = -16000")  # kB
        self._database.execute("CREATE TABLE note (key BLOB PRIMARY KEY, value) WITHOUT ROWID")
        self._database.execute("BEGIN")  # one transaction without an end: each of its own costs ten times as much

    def get(self, key: bytes) -> V | None:
        """Return the value of a key; None where there is none."""
        found = self._database.execute("SELECT value FROM note WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None

    def enter(self, key: bytes, value: V) -> V | None:
        """Enter a value for a new key; return the value that a known key has already, which stays."""
        entered = self._database.execute("INSERT OR IGNORE INTO note VALUES (?, ?)", (key, value))
        return None if entered.rowcount else self.get(key)
