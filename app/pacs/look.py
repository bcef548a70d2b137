"""What the queue holds, for people: jobs, what they worked on, what came of it and where it went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Select, Table, exists, func, select, update

from app.pacs.database.engine import Database
from app.pacs.database.tables import CHAIN, commitment, delivery, instance, job, job_instance, now, result, series

JOB_COLUMNS: Final = (
    "id",
    "state",
    "kind",
    "series_uid",
    "revision",
    "attempts",
    "priority",
    "source_ae",
    "reason",
    "message",
    "created_at",
    "started_at",
    "ended_at",
    "not_before",
)

SERIES_COLUMNS: Final = (
    "series_uid",
    "state",
    "expected",
    "attempts",
    "reason",
    "source_ae",
    "first_at",
    "last_at",
    "not_before",
)

HELD_UP: Final = (series.c.state == "arriving", series.c.attempts > 0)
"""What is true of a series that waits after an attempt that failed."""


def unqueued(database: Database, most: int = 50) -> list[dict[str, Any]]:
    """Return the series that are not in the queue, those that failed most often first, with how many instances came.

    They arrive still, are asked for, or break what looks at them (reason `INTERNAL_ERROR`); or their time has `ended`.
    """
    mine = instance.c.series_uid == series.c.series_uid, instance.c.copy == 0
    instances = select(func.count()).where(*mine).scalar_subquery().label("instances")
    query = select(*(series.c[name] for name in SERIES_COLUMNS), instances).where(series.c.state != "queued")
    return _rows(database, query.order_by(series.c.attempts.desc(), series.c.last_at.desc()).limit(most))


def jobs(database: Database, states: Sequence[str] = (), most: int = 50) -> list[dict[str, Any]]:
    """Return jobs, the newest first, with how many instances each has and the states of its deliveries."""
    instances = select(func.count()).where(job_instance.c.job_id == job.c.id).scalar_subquery().label("instances")
    query = select(*(job.c[name] for name in JOB_COLUMNS), instances).order_by(job.c.id.desc()).limit(most)
    if states:
        query = query.where(job.c.state.in_(states))
    found = _rows(database, query)
    of_job: dict[int, list[str]] = {one["id"]: [] for one in found}
    sent = select(delivery.c.job_id, delivery.c.destination, delivery.c.state).where(delivery.c.job_id.in_(of_job))
    for one in _rows(database, sent.order_by(delivery.c.id)):
        of_job[one["job_id"]].append(f"{one['destination']} {one['state']}")
    return [{**one, "deliveries": of_job[one["id"]]} for one in found]


def job_with_all(database: Database, job_id: int) -> dict[str, Any] | None:
    """Return one job with its instances by what became of them, results, deliveries and commitments."""
    found = _rows(database, select(job).where(job.c.id == job_id))
    if not found:
        return None
    cols = job_instance.c
    became = select(cols.part, cols.status, cols.reason, func.count().label("instances")).where(cols.job_id == job_id)
    commitments = select(commitment).join(delivery, delivery.c.id == commitment.c.delivery_id)
    return {
        **found[0],
        "instances": _rows(database, became.group_by(cols.part, cols.status, cols.reason)),
        "results": _rows(database, _of_job(result, job_id)),
        "deliveries": _rows(database, _of_job(delivery, job_id)),
        "commitments": _rows(database, commitments.where(delivery.c.job_id == job_id).order_by(commitment.c.id)),
    }


def _of_job(table: Table, job_id: int) -> Select[Any]:
    return select(table).where(table.c.job_id == job_id).order_by(table.c.id)


def _rows(database: Database, query: Select[Any]) -> list[dict[str, Any]]:
    with database.read() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def look_again(database: Database) -> int:
    """Make the series due that wait after a failed attempt; return how many."""
    with database.begin() as connection:
        return connection.execute(update(series).where(*HELD_UP).values(attempts=0, not_before=None)).rowcount


def retry(database: Database, job_ids: Sequence[int] | None) -> tuple[int, int]:
    """Queue failed jobs and failed deliveries once more, with all their attempts.

    A job of which there is a later revision is left alone: that one holds its instances. Its token stays, for a worker
    that was too slow may still be there.

    Args:
        database: of the queue.
        job_ids: None for all that failed.

    Returns:
        How many jobs, and how many deliveries.
    """
    again = {"state": "waiting", "attempts": 0, "not_before": now()}
    later = job.alias()
    same = [later.c[name] == job.c[name] for name in CHAIN]
    failed_jobs = update(job).where(job.c.state == "failed", ~exists().where(*same, later.c.id > job.c.id))
    failed_sent = update(delivery).where(delivery.c.state == "failed")
    if job_ids is not None:
        failed_jobs = failed_jobs.where(job.c.id.in_(job_ids))
        failed_sent = failed_sent.where(delivery.c.job_id.in_(job_ids))
    with database.begin() as connection:
        worked = connection.execute(failed_jobs.values(**again, ended_at=None)).rowcount
        sent = connection.execute(failed_sent.values(**again, created_at=now())).rowcount
    return worked, sent
