"""How each series of a cohort ended, one row each, in a database of its partition: what a run that is killed keeps.

All series of a unit are entered in one transaction, together with the unit's fingerprint. So a unit is either done or
still to do, whatever happens to the process or the disk.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Final

from app.cohort.units import Unit
from app.table.result import Cell
from operators.types import Finding, Outcome

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS unit (name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, failed INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS ended (unit TEXT NOT NULL, uid TEXT NOT NULL, part INTEGER, status TEXT NOT NULL,
    body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS ended_by_unit ON ended (unit);
"""
_FILES: Final = ""
"""Stands for the unit of files that cannot be read."""


@dataclass(frozen=True, slots=True)
class Ended:
    """One series or part, or one file that cannot be read.

    Attributes:
        outcome: how it ended.
        places: every folder in which it lies, relative to the root; of an unreadable file the file itself.
        study: StudyInstanceUID; empty where it is not known.
        job_key: of the features.
        row: column → value as in `ctvae table`; None unless it was written.
        lengths: tap → number of dimensions in the row.
    """

    outcome: Outcome
    places: tuple[str, ...]
    study: str = ""
    job_key: str = ""
    row: Mapping[str, Cell] | None = None
    lengths: Mapping[str, int] | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Series and part, to sort by."""
        return self.outcome.series_instance_uid, self.outcome.part or 0

    def body(self) -> bytes:
        """Return all of it but UID and part, compressed."""
        outcome = self.outcome
        values = {
            name: getattr(outcome, name) for name in ("folder", "status", "reason", "message", "shape", "spacing_mm")
        }
        values["findings"] = [[finding.code, finding.detail] for finding in outcome.findings]
        values["seconds"] = dict(outcome.seconds)
        about = {name: getattr(self, name) for name in ("places", "study", "job_key", "row", "lengths")}
        return zlib.compress(json.dumps({"outcome": values, **about}).encode(), 1)

    @staticmethod
    def from_body(uid: str, part: int | None, body: bytes) -> Ended:
        """Return what has this UID, part and body."""
        found = json.loads(zlib.decompress(body))
        values = found["outcome"]
        values["findings"] = tuple(Finding(*one) for one in values["findings"])
        for name in ("shape", "spacing_mm"):
            values[name] = tuple(values[name]) if values[name] else None
        outcome = Outcome(uid, part, **values)
        places, row, lengths = tuple(found["places"]), found["row"], found["lengths"]
        return Ended(outcome, places, found["study"], found["job_key"], row, lengths)


class EndedStore:
    """The database of a partition."""

    def __init__(self, file: Path) -> None:
        """Open it, or make it."""
        self._database = sqlite3.connect(file)
        self._database.executescript(_TABLES)

    def close(self) -> None:
        """Close it."""
        self._database.close()

    def is_done(self, unit: Unit) -> bool:
        """Return whether a unit was encoded as it is now; one with a failure is tried again."""
        found = self._database.execute("SELECT fingerprint, failed FROM unit WHERE name = ?", (unit.name,)).fetchone()
        return bool(found == (unit.fingerprint, 0))

    def enter(self, unit: Unit, ended: Sequence[Ended]) -> None:
        """Enter a unit with all of its series, in the place of what was entered before."""
        failed = any(one.outcome.status == "failed" for one in ended)
        with self._database:
            self._put(unit.name, ended)
            values = (unit.name, unit.fingerprint, failed)
            self._database.execute("INSERT OR REPLACE INTO unit VALUES (?, ?, ?)", values)

    def enter_files(self, unreadable: Iterable[tuple[Outcome, str]]) -> None:
        """Enter the files that cannot be read, in the place of those entered before."""
        with self._database:
            self._put(_FILES, (Ended(outcome, (place,)) for outcome, place in unreadable))

    def forget_others(self, units: Iterable[str]) -> list[str]:
        """Remove every unit but these, and return the names of those removed."""
        with self._database:
            self._database.execute("CREATE TEMP TABLE IF NOT EXISTS present (name TEXT PRIMARY KEY)")
            self._database.execute("DELETE FROM present")
            self._database.executemany("INSERT OR IGNORE INTO present VALUES (?)", ((name,) for name in units))
            gone = "SELECT name FROM unit WHERE name NOT IN (SELECT name FROM present)"
            names = [str(name) for (name,) in self._database.execute(gone)]
            self._database.executemany("DELETE FROM ended WHERE unit = ?", ((name,) for name in names))
            self._database.executemany("DELETE FROM unit WHERE name = ?", ((name,) for name in names))
        return names

    def all(self) -> Iterator[Ended]:
        """Yield each series or part once, sorted; of one that ended in two units the first, with all its places."""
        for _, group in groupby(self._sorted(), key=lambda one: one.key):
            first, *others = group
            places = {place for one in (first, *others) for place in one.places}
            yield replace(first, places=tuple(sorted(places)))

    def _sorted(self) -> Iterator[Ended]:
        """Yield every row; only the keys are sorted, for the bodies of a million rows would fill a temporary folder."""
        order = "SELECT rowid FROM ended ORDER BY uid, coalesce(part, 0), status <> 'written', unit, rowid"
        whole = "SELECT uid, part, body FROM ended WHERE rowid = ?"
        for number in self._database.execute(order):
            yield Ended.from_body(*self._database.execute(whole, number).fetchone())

    def statuses(self) -> Counter[str]:
        """Return status → number of rows that ended so."""
        return Counter(dict(self._database.execute("SELECT status, count(*) FROM ended GROUP BY status")))

    def _put(self, unit: str, ended: Iterable[Ended]) -> None:
        self._database.execute("DELETE FROM ended WHERE unit = ?", (unit,))
        rows = (
            (unit, one.outcome.series_instance_uid, one.outcome.part, one.outcome.status, one.body()) for one in ended
        )
        self._database.executemany("INSERT INTO ended VALUES (?, ?, ?, ?, ?)", rows)
