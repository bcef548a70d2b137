"""When a series is complete, and what is done until it is.

It is when nothing arrived for the quiet time and the PACS, where there is one to ask, has no more of it than we. What
is missing is fetched. After the hard cap what is there is worked, with a finding. What comes later makes a revision.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from sqlalchemy import Connection, and_, case, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from app.pacs import trail
from app.pacs.arrivals import OTHER_CONTENT
from app.pacs.backoff import Backoff
from app.pacs.database.engine import Database
from app.pacs.database.tables import instance, now, series
from app.pacs.fetch import PacsAway
from app.pacs.hooks import passing
from app.pacs.settings import ListenerSettings
from operators.types import Finding

logger = logging.getLogger(__name__)

LONGEST_PAUSE_S: Final = 1800.0
LOOK_S: Final = 0.5
PAUSE_S: Final = 5.0

Emit = Callable[[Connection, str, Sequence[int]], Any]
"""Puts a series, with the ids of its instances, into the queue, in the transaction that says it is complete."""


class AsksPacs(Protocol):
    """What of a PACS is needed here."""

    def count(self, study_uid: str, series_uid: str) -> int:
        """Return how many instances it has."""

    def instances(self, study_uid: str, series_uid: str) -> frozenset[str]:
        """Return which."""

    def fetch(self, study_uid: str, series_uid: str, sop_uids: Sequence[str]) -> None:
        """Have some sent to us."""


@dataclass(slots=True)
class Completer:
    """Looks after the series that are arriving.

    Attributes:
        database: with their rows.
        settings: quiet time and hard cap.
        emit: what is done with one that is complete.
        pacs: to ask; None where there is none.
        on_queued: called when there is something to do for a worker.
        stop: ends `run`.
    """

    database: Database
    settings: ListenerSettings
    emit: Emit
    pacs: AsksPacs | None = None
    on_queued: Callable[[], None] = lambda: None
    stop: threading.Event = field(default_factory=threading.Event)
    _away_until: float = 0.0

    def run(self) -> None:
        """Look again and again until `stop` is set; whatever goes wrong is said, and tried again."""
        while not self.stop.wait(LOOK_S):
            try:
                self.step()
            except SQLAlchemyError as error:
                logger.error("the database: %s; series wait", type(error).__name__)
            except Exception as error:  # without this thread no series is queued any more
                text = "INTERNAL_ERROR: %s while looking after the series; trying again in %g s"
                logger.error(text, type(error).__name__, PAUSE_S)
                logger.debug("looking after the series", exc_info=True)
                self.stop.wait(PAUSE_S)

    def step(self) -> int:
        """Look once at each series that is due; how many went into the queue."""
        queued = 0
        for row in self._due():
            if (row.given_up or time.monotonic() >= self._away_until) and self._decide(row):
                queued += 1
                self.on_queued()
        return queued

    def _due(self) -> Sequence[Any]:
        given_up = series.c.first_at <= now() - self.settings.give_up_h * 3600
        quiet = series.c.last_at <= now() - self.settings.quiet_s
        waited = or_(series.c.not_before.is_(None), series.c.not_before <= now())
        flags = (case((given_up, 1), else_=0).label("given_up"), case((quiet, 1), else_=0).label("quiet"))
        due = select(series, *flags).where(series.c.state == "arriving", or_(given_up, and_(quiet, waited)))
        with self.database.read() as connection:
            return connection.execute(due.order_by(series.c.last_at)).all()

    def _decide(self, row: Any) -> bool:
        expected, findings = None, []
        if self.pacs is not None:
            try:
                expected = self._fetched(self.pacs, row)
            except PacsAway as error:
                self._away_until = time.monotonic() + self.settings.query.retry_s
                if not row.given_up:
                    self._postpone(row, str(error), None)
                    return False
                detail = f"the PACS did not say how many instances there are: {error}"
                findings.append(Finding("COUNT_UNCONFIRMED", detail))
        have = len(self._have(row.series_uid))
        if expected is not None and have < expected:
            if not row.given_up:
                self._postpone(row, f"{have} of {expected} instances are here", expected)
                return False
            detail = f"{have} of {expected} instances arrived or could be fetched in {self.settings.give_up_h:g} h"
            findings.append(Finding("SERIES_INCOMPLETE", detail))
        elif not row.quiet:
            detail = f"instances still came after {self.settings.give_up_h:g} h; {have} are here"
            findings.append(Finding("SERIES_INCOMPLETE", detail))
        return self._close(row, expected, findings)

    def _fetched(self, pacs: AsksPacs, row: Any) -> int:
        """How many instances the PACS has; those that are not here were fetched, if they could be."""
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
        of = instance.c.calling_ae, instance.c.sender
        counted = select(*of, func.count()).where(instance.c.series_uid == series_uid).group_by(*of).order_by(*of)
        with self.database.read() as connection:
            return [(title, address, count) for title, address, count in connection.execute(counted)]

    def _postpone(self, row: Any, why: str, expected: int | None) -> None:
        pause = Backoff(self.settings.query.retry_s, LONGEST_PAUSE_S).pause_s(row.attempts + 1)
        logger.warning("series %s waits %.0f s: %s", row.series_uid, pause, why)
        values = {"attempts": row.attempts + 1, "not_before": now() + pause, "reason": why, "expected": expected}
        with self.database.begin() as connection:
            connection.execute(update(series).where(_unchanged(row)).values(**values))

    def _close(self, row: Any, expected: int | None, findings: Sequence[Finding]) -> bool:
        """Hand a series over, unless something arrived since it was looked at: then it is looked at again."""
        lasting = [one for one in json.loads(row.findings) if one["code"] == OTHER_CONTENT]
        told = json.dumps([*lasting, *({"code": one.code, "detail": one.detail} for one in findings)])
        values = {"expected": expected, "findings": told, "reason": None, "not_before": None}
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
