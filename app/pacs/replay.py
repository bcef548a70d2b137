"""Series that were worked before, put into the queue once more: with another bundle, or a later ctvae."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from app.pacs.database.engine import AWAY, Database
from app.pacs.database.tables import instance, job, job_instance
from app.pacs.queue import REPLAY, enqueue
from app.pacs.work import Work

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was put into the queue.

    Attributes:
        queued: ids of new jobs.
        known: series for which there is such a job already.
        purged: series whose instances are no longer all in the spool.
        failed: series → what broke when it was queued.
    """

    queued: tuple[int, ...]
    known: int
    purged: int
    failed: Mapping[str, str]


def replay(database: Database, since: float, work: Work) -> Replayed:
    """Queue the last revision of each series again, behind what arrives new.

    Args:
        database: of the queue.
        since: seconds since 1970: of the series whose last job is from then or later.
        work: the bundle and the configuration.
    """
    queued, known, purged, failed = list[int](), 0, 0, dict[str, str]()
    with database.read() as connection:
        last = list(_last_jobs(connection, since))
    for job_id, series_uid in last:
        try:
            made = _queued_again(database, job_id, series_uid, work)
        except AWAY:
            raise
        except Exception as error:  # one series must not stop the others
            logger.debug("series %s", series_uid, exc_info=True)
            failed[series_uid] = type(error).__name__
            continue
        if made is None:
            known += 1
        elif made:
            queued.append(made)
        else:
            purged += 1
    return Replayed(tuple(queued), known, purged, failed)


def _queued_again(database: Database, job_id: int, series_uid: str, work: Work) -> int | None:
    """Return the new job, None if known, 0 if instances were purged; one short transaction, since receivers wait."""
    listed = select(instance.c.id, instance.c.state).join(job_instance, job_instance.c.instance_id == instance.c.id)
    with database.begin() as connection:
        rows = connection.execute(listed.where(job_instance.c.job_id == job_id).order_by(instance.c.id)).all()
        if any(row.state == "purged" for row in rows):
            return 0
        return enqueue(connection, series_uid, [row.id for row in rows], work, REPLAY)


def _last_jobs(connection: Connection, since: float) -> Iterator[tuple[int, str]]:
    counting = job.c.kind == "main", job.c.state != "superseded"
    last = select(func.max(job.c.id).label("id"), job.c.series_uid).where(*counting).group_by(job.c.series_uid)
    found = last.subquery()
    query = select(job.c.id, job.c.series_uid).join(found, found.c.id == job.c.id).where(job.c.created_at >= since)
    for row in connection.execute(query.order_by(job.c.id)):
        yield row.id, row.series_uid
