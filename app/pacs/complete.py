"""When a series is complete, and what is done until it is.

It is when nothing arrived for the quiet time and the PACS, where there is one to ask, has no more of it than we. What
is missing is fetched. After the hard cap what is there is worked, with a finding. What comes later makes a revision.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from sqlalchemy import Connection, and_, case, func, or_, select, update

from app.pacs import trail
from app.pacs.arrivals import OTHER_CONTENT
from app.pacs.backoff import Backoff
from app.pacs.database.engine import AWAY, Database
from app.pacs.database.tables import instance, now, series
from app.pacs.fetch import PacsAway, PacsRefused
from app.pacs.hooks import passing
from app.pacs.service import Service
from app.pacs.settings import ListenerSettings
from operators.types import Finding

logger = logging.getLogger(__name__)

LONGEST_PAUSE_S: Final = 1800.0
LOOK_S: Final = 0.5

Emit = Callable[[Connection, str, Sequence[int]], Any]
"""Puts a series, with the ids of its instances, into the queue, in the transaction that says it is complete."""


class AsksPacs(Protocol):
    """What of a PACS is needed here."""

    def count(self, study_uid: str, series_uid: str) -> int:
        """Return how many instances it has."""

    def instances(self, study_uid: str, series_uid: str) -> frozenset[str]:
        """Return which."""

    def fetch(self, study_uid: str, series_uid: str, sop_uids: Sequence[str]) -> None:
        """Ask for some instances; they arrive as C-STORE requests."""


@dataclass(slots=True)
class Completer:
    """Looks after the series that are arriving.

    Attributes:
        database: with their rows.
        settings: quiet time and hard cap.
        emit: what is done with one that is complete.
        pacs: to ask; None where there is none.
        on_queued: called when there is something to do for a worker.
        service: the loop.
    """

    database: Database
    settings: ListenerSettings
    emit: Emit
    pacs: AsksPacs | None = None
    on_queued: Callable[[], None] = lambda: None
    service: Service = field(default_factory=lambda: Service("completer", LOOK_S))
    _away_until: float = 0.0

    def run(self) -> None:
        """Look again and again until the service is stopped."""
        self.service.run(self.step)

    def step(self) -> int:
        """Look once at each series that is due; how many went into the queue."""
        queued = 0
        for row in self._due():
            given_up = row.left_s <= 0
            if (given_up or time.monotonic() >= self._away_until) and self._looked_at(row, given_up):
                queued += 1
                self.on_queued()
        return queued

    def _looked_at(self, row: Any, given_up: bool) -> bool:
        """Return whether a series went into the queue; an unexpected error does not hold up the others."""
        try:
            return self._decide(row, given_up)
        except AWAY:
            raise
        except Exception as error:
            logger.debug("series %s", row.series_uid, exc_info=True)
            self._postpone(row, f"INTERNAL_ERROR: {type(error).__name__} while it was looked at", row.expected)
            return False

    def _due(self) -> Sequence[Any]:
        left_s = series.c.first_at + self.settings.give_up_h * 3600 - now()
        quiet = series.c.last_at <= now() - self.settings.quiet_s
        waited = or_(series.c.not_before.is_(None), series.c.not_before <= now())
        flags = (left_s.label("left_s"), case((quiet, 1), else_=0).label("quiet"))
        due = select(series, *flags).where(series.c.state == "arriving", waited, or_(left_s <= 0, quiet))
        with self.database.read() as connection:
            return connection.execute(due.order_by(series.c.last_at)).all()

    def _decide(self, row: Any, given_up: bool) -> bool:
        expected, findings = None, []
        if self.pacs is not None:
            try:
                expected = self._fetched(self.pacs, row)
            except PacsAway as error:
                if not isinstance(error, PacsRefused):
                    self._away_until = time.monotonic() + self.settings.query.retry_s
                if not given_up:
                    self._postpone(row, str(error), None)
                    return False
                detail = f"the PACS did not say how many instances there are: {error}"
                findings.append(Finding("COUNT_UNCONFIRMED", detail))
        have = len(self._have(row.series_uid))
        if expected is not None and have < expected:
            if not given_up:
                self._postpone(row, f"{have} of {expected} instances are here", expected)
                return False
            detail = f"{have} of {expected} instances arrived or could be fetched in {self.settings.give_up_h:g} h"
            findings.append(Finding("SERIES_INCOMPLETE", detail))
        elif not row.quiet:
            detail = f"instances still came after {self.settings.give_up_h:g} h; {have} are here"
            findings.append(Finding("SERIES_INCOMPLETE", detail))
        return self._close(row, expected, findings)

    def _fetched(self, pacs: AsksPacs, row: Any) -> int:
        """Fetch what is missing here, if that is possible; return how many instances the PACS has."""
        expected = pacs.count(row.study_uid, row.series_uid)
        here = self._have(row.series_uid)
        if len(here) >= expected or self.settings.query.retrieve == "none":
            return expected
        there = pacs.instances(row.study_uid, row.series_uid)
        missing = sorted(there - here)
        if missing:
            logger.info("series %s: fetching %d of %d instances", row.series_uid, len(missing), len(there))
            pacs.fetch(row.study_uid, row.series_uid, missing)
        return len(there | here)

    def _have(self, series_uid: str) -> frozenset[str]:
        mine = select(instance.c.sop_uid).where(instance.c.series_uid == series_uid, instance.c.copy == 0)
        with self.database.read() as connection:
            return frozenset(connection.execute(mine).scalars())

    def _senders(self, series_uid: str) -> list[tuple[str, str, int]]:
        by = instance.c.calling_ae, instance.c.sender
        counted = select(*by, func.count()).where(instance.c.series_uid == series_uid).group_by(*by).order_by(*by)
        with self.database.read() as connection:
            return [(title, address, count) for title, address, count in connection.execute(counted)]

    def _postpone(self, row: Any, why: str, expected: int | None) -> None:
        pause = Backoff(self.settings.query.retry_s, LONGEST_PAUSE_S).pause_s(row.attempts + 1)
        if row.left_s > 0:
            pause = min(pause, row.left_s)
        logger.warning("series %s waits %.0f s: %s", row.series_uid, pause, why)
        values = {"attempts": row.attempts + 1, "not_before": now() + pause, "reason": why, "expected": expected}
        with self.database.begin() as connection:
            connection.execute(update(series).where(_unchanged(row)).values(**values))

    def _close(self, row: Any, expected: int | None, findings: Sequence[Finding]) -> bool:
        """Hand a series over, unless something arrived since it was looked at: then it is looked at again."""
        lasting = [one for one in json.loads(row.findings) if one["code"] == OTHER_CONTENT]
        noted = json.dumps([*lasting, *({"code": one.code, "detail": one.detail} for one in findings)])
        values = {"expected": expected, "findings": noted, "reason": None, "not_before": None}
        mine = and_(instance.c.series_uid == row.series_uid, instance.c.copy == 0)
        with self.database.begin() as connection:
            purged = connection.execute(select(func.count()).where(mine, instance.c.state == "purged")).scalar_one()
            ended: dict[str, Any] = (
                # A result of the late slices alone would take the place of one of all.
                {"state": "ended", "reason": f"{purged} instances were purged before more came; send all of it again"}
                if purged
                else {"state": "queued", "revision": series.c.revision + 1}
            )
            closed = update(series).where(_unchanged(row)).values(**values | ended)
            if not connection.execute(closed).rowcount:
                return False
            if not purged:
                kept = select(instance.c.id).where(mine, instance.c.state == "kept").order_by(instance.c.id)
                self.emit(connection, row.series_uid, list(connection.execute(kept).scalars()))
            passing("complete.commit.before")
        passing("complete.commit.after")
        trail.arrived(row, self._senders(row.series_uid), ended.get("reason"), self.settings.ae_title)
        logger.info("series %s: %s", row.series_uid, ended["state"])
        return not purged


def _unchanged(row: Any) -> Any:
    return and_(series.c.series_uid == row.series_uid, series.c.state == "arriving", series.c.last_at == row.last_at)
