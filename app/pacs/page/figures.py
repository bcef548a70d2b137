"""What the queue looks like now, in numbers: for the page, and for Prometheus. No identity of a patient is in it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from sqlalchemy import Connection, func, select

from app.pacs.database.engine import Database
from app.pacs.database.tables import delivery, instance, job, now, result, series
from app.pacs.look import HELD_UP
from app.pacs.places import Places

HOUR_S: Final = 3600.0
MOST_FAILED: Final = 20


@dataclass(frozen=True, slots=True)
class Failed:
    """A job or a delivery that a person is to look at.

    Attributes:
        what: could not be done: `encoded`, or `sent to NAME`.
    """

    job_id: int
    series_uid: str
    what: str
    reason: str
    message: str
    attempts: int


@dataclass(frozen=True, slots=True)
class HeldUp:
    """A series that waits after a failed attempt to complete it.

    Attributes:
        next_s: until it is looked at again.
    """

    series_uid: str
    reason: str
    attempts: int
    next_s: float


@dataclass(frozen=True, slots=True)
class Figures:
    """The queue at one moment.

    Attributes:
        instances: acknowledged since ever.
        instances_last_hour: of these.
        series_arriving: that are not complete.
        series_held_up: of these, those whose last attempt failed: see `held_up`.
        jobs: state → count.
        deliveries: (destination, state) → count.
        sent_last_hour: deliveries.
        latency_s: median, of the last hour, from the hand-over to the queue until the first destination has the result.
        oldest_waiting_s: age of the oldest job that is not ended; None where there is none.
        free_bytes: of the spool's file system.
        failed: the newest first.
        held_up: those that failed most often first.
    """

    instances: int
    instances_last_hour: int
    series_arriving: int
    series_held_up: int
    jobs: Mapping[str, int]
    deliveries: Mapping[tuple[str, str], int]
    sent_last_hour: int
    latency_s: float | None
    oldest_waiting_s: float | None
    free_bytes: int
    failed: Sequence[Failed]
    held_up: Sequence[HeldUp]


def figures(database: Database, places: Places) -> Figures:
    """Read the queue."""
    with database.read() as connection:
        arrived = select(func.count(instance.c.id))
        latest = select(delivery.c.sent_at - job.c.created_at).join(job, job.c.id == delivery.c.job_id)
        latencies = connection.execute(latest.where(delivery.c.sent_at > now() - HOUR_S)).scalars().all()
        open_jobs = select(now() - func.min(job.c.created_at)).where(job.c.state.in_(("waiting", "leased")))
        jobs = select(job.c.state, func.count()).group_by(job.c.state)
        sent = select(delivery.c.destination, delivery.c.state, func.count())
        by_state = connection.execute(sent.group_by(delivery.c.destination, delivery.c.state))
        return Figures(
            instances=_count(connection, arrived),
            instances_last_hour=_count(connection, arrived.where(instance.c.received_at > now() - HOUR_S)),
            series_arriving=_count(connection, select(func.count()).where(series.c.state == "arriving")),
            series_held_up=_count(connection, select(func.count()).where(*HELD_UP)),
            jobs={row[0]: row[1] for row in connection.execute(jobs)},
            deliveries={(name, state): count for name, state, count in by_state},
            sent_last_hour=len(latencies),
            latency_s=median(latencies) if latencies else None,
            oldest_waiting_s=connection.execute(open_jobs).scalar(),
            free_bytes=shutil.disk_usage(places.folder).free,
            failed=_failed(connection),
            held_up=_held_up(connection),
        )


def _held_up(connection: Connection) -> list[HeldUp]:
    columns = series.c.series_uid, series.c.reason, series.c.attempts, series.c.not_before - now()
    found = select(*columns).where(*HELD_UP).order_by(series.c.attempts.desc(), series.c.id).limit(MOST_FAILED)
    return [HeldUp(uid, why or "", count, max(s or 0.0, 0.0)) for uid, why, count, s in connection.execute(found)]


def _count(connection: Connection, query: Any) -> int:
    return int(connection.execute(query).scalar_one())


def _failed(connection: Connection) -> list[Failed]:
    columns = (job.c.id, job.c.series_uid, job.c.reason, job.c.message, job.c.attempts)
    jobs = select(*columns).where(job.c.state == "failed").order_by(job.c.id.desc()).limit(MOST_FAILED)
    sent = (
        select(job.c.id, job.c.series_uid, delivery.c.destination, delivery.c.reason, delivery.c.status)
        .add_columns(delivery.c.attempts)
        .join(job, job.c.id == delivery.c.job_id)
        .join(result, result.c.id == delivery.c.result_id)
        .where(delivery.c.state == "failed")
        .order_by(delivery.c.id.desc())
        .limit(MOST_FAILED)
    )
    found = [
        Failed(row.id, row.series_uid, "encoded", row.reason or "", row.message or "", row.attempts)
        for row in connection.execute(jobs)
    ]
    found += [
        Failed(row.id, row.series_uid, f"sent to {row.destination}", row.reason or "", row.status or "", row.attempts)
        for row in connection.execute(sent)
    ]
    return sorted(found, key=lambda one: -one.job_id)[:MOST_FAILED]
