"""Retention: pixels leave the spool when their result has arrived everywhere and the set time has passed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, and_, bindparam, exists, func, or_, select, update

from app.pacs import trail
from app.pacs.database.engine import AWAY, Database
from app.pacs.database.tables import delivery, instance, job, now, series
from app.pacs.destination import Destination
from app.pacs.hooks import passing
from app.pacs.places import Places
from operators.dicom.content_digest import content_digest
from operators.results.atomic import fsync_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Purgeable:
    """A series whose instances may leave the spool."""

    series_uid: str
    instances: int
    size_bytes: int
    ended_at: float


def purgeable(
    database: Database, destinations: tuple[Destination, ...], days: float, *, refused: bool = False
) -> tuple[Purgeable, ...]:
    """Return the series that may be purged, the oldest first; changes nothing.

    A series may be when its last job ended so long ago, nothing of it arrives, waits or is in work, and each result has
    been sent (and confirmed, where the destination is asked for commitment).

    Args:
        database: of the queue.
        destinations: as in the settings.
        days: since the last of it was sent or confirmed.
        refused: those that were rejected or skipped, too.
    """
    confirming = [one.name for one in destinations if one.commitment]
    of_series = job.c.series_uid == series.c.series_uid
    open_jobs = exists().where(of_series, job.c.state.in_(("waiting", "leased")))
    arrived = or_(
        delivery.c.state == "confirmed", and_(delivery.c.state == "sent", delivery.c.destination.not_in(confirming))
    )
    not_arrived = exists().where(delivery.c.job_id == job.c.id, of_series, ~arrived)
    ended = ("done", "refused") if refused else ("done",)
    counting = job.alias()
    counts = and_(counting.c.kind == "main", counting.c.state != "superseded")
    last = select(func.max(counting.c.id)).where(counting.c.series_uid == series.c.series_uid, counts)
    last_ended = exists().where(job.c.id == last.correlate(series).scalar_subquery(), job.c.state.in_(ended))
    latest_job = select(func.max(job.c.ended_at)).where(of_series).scalar_subquery()
    sent = func.max(func.coalesce(delivery.c.confirmed_at, delivery.c.sent_at))
    latest_sent = select(sent).where(delivery.c.job_id == job.c.id, of_series).scalar_subquery()
    at = func.coalesce(latest_sent, latest_job)
    kept = and_(instance.c.series_uid == series.c.series_uid, instance.c.state != "purged")
    query = (
        select(series.c.series_uid, func.count(instance.c.id), func.sum(instance.c.size_bytes), at)
        .join(instance, kept)
        .where(series.c.state == "queued", ~open_jobs, ~not_arrived, last_ended, at <= now() - days * 86_400)
        .group_by(series.c.id, series.c.series_uid)
        .order_by(series.c.id)
    )
    with database.read() as connection:
        return tuple(
            Purgeable(uid, int(count), int(size), float(when)) for uid, count, size, when in connection.execute(query)
        )


@dataclass(frozen=True, slots=True)
class Purged:
    """What was deleted.

    Attributes:
        instances: that are gone.
        failed: series → why not all of it went; the next purge goes on with it.
    """

    instances: int
    failed: Mapping[str, str]


def purge(database: Database, places: Places, series_uids: tuple[str, ...]) -> Purged:
    """Delete the instances of these series from the spool; their rows stay.

    The digest of the content is entered before a file goes, so that an instance that comes again is known for what it
    is; that the file is gone, afterwards, so that a kill in between leaves no file without a row that owns it.
    """
    deleted, failed = 0, dict[str, str]()
    for uid in series_uids:
        try:
            deleted += _purge_series(database, places, uid)
        except AWAY:
            raise
        except OSError as error:
            failed[uid] = f"INPUT_OUTPUT_ERROR: {error.strerror or type(error).__name__}"
        except Exception as error:  # one series must not stop the others
            logger.debug("series %s", uid, exc_info=True)
            failed[uid] = f"INTERNAL_ERROR: {type(error).__name__}"
    return Purged(deleted, failed)


def _purge_series(database: Database, places: Places, uid: str) -> int:
    rows = _kept(database, uid)
    for row in rows:
        path = places.spool / row.path
        if path.exists():
            _enter(database, [row.id], {"content_digest": content_digest(path)})
        passing("purge.digest.after")
        path.unlink(missing_ok=True)
        passing("purge.unlink.after")
    fsync_folder(places.spool / "instances" / uid)
    _enter(database, [row.id for row in rows], {"state": "purged"})
    trail.purged(uid, len(rows))
    return len(rows)


def _enter(database: Database, instances: Sequence[int], values: dict[str, Any]) -> None:
    if not instances:
        return
    statement = update(instance).where(instance.c.id == bindparam("of_instance"))
    with database.begin() as connection:
        connection.execute(statement, [{"of_instance": one, **values} for one in instances])


def _kept(database: Database, series_uid: str) -> list[Row[Any]]:
    query = select(instance.c.id, instance.c.path)
    with database.read() as connection:
        found = query.where(instance.c.series_uid == series_uid, instance.c.state != "purged")
        return list(connection.execute(found.order_by(instance.c.id)))
