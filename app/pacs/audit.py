"""Where each instance that was acknowledged is now: nothing may be lost, and what is not delivered has a reason.

acknowledged = in a delivered result + waiting + ended with a reason; the difference is 0, or it is said which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, func, select

from app.pacs.database.engine import Database
from app.pacs.database.tables import delivery, instance, job, job_instance, result, series
from app.pacs.places import Places

DELIVERED, WAITING = "delivered", "waiting"
ON_ITS_WAY: Final = ("waiting", "sending")
_Deliveries = Mapping[tuple[int, int | None], list[Any]]


@dataclass(frozen=True, slots=True)
class Audit:
    """What became of everything that was acknowledged.

    Attributes:
        acknowledged: instances.
        delivered: in a result that all its destinations said they have; that is in the folder, where it has none.
        waiting: for more instances, for the worker, or to be sent.
        ended: reason → instances that are in no delivered result for it.
        lost: one line for each that is none of these, or whose file is gone; what the difference is made of.
        unknown_files: files of the spool without a row: of an arrival that was never acknowledged.
    """

    acknowledged: int
    delivered: int
    waiting: int
    ended: Mapping[str, int]
    lost: tuple[str, ...]
    unknown_files: tuple[str, ...]

    @property
    def difference(self) -> int:
        """Instances that nobody can account for."""
        return len(self.lost)


def audit(database: Database, places: Places) -> Audit:
    """Count what became of every instance, as the database is at one moment."""
    with database.read() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        rows = connection.execute(_instances()).all()
        sent = _deliveries(connection)
        results = connection.execute(select(result.c.path)).scalars().all()
    counts, ended, lost = Counter[str](), Counter[str](), list[str]()
    for row in rows:
        where, reason = _where(row, sent)
        if where != DELIVERED and row.state != "purged" and not _there(places.spool / row.path, row.size_bytes):
            where, reason = "lost", "its file is gone from the spool, or has another size"
        counts[where] += 1
        if where == "ended":
            ended[reason] += 1
        elif where == "lost":
            lost.append(f"{row.sop_uid} of series {row.series_uid}: {reason}")
    lost += [f"result {path}: its file is gone" for path in results if not (places.results / path).is_file()]
    known = {row.path for row in rows}
    unknown = tuple(path for path in _files(places.spool) if path not in known)
    return Audit(len(rows), counts[DELIVERED], counts[WAITING], dict(ended.most_common()), tuple(lost), unknown)


def _instances() -> Any:
    """Return the query for each instance, with its last job that counts and what became of it there."""
    counting = and_(job.c.kind == "main", job.c.state != "superseded")
    last = (
        select(job_instance.c.instance_id, func.max(job.c.id).label("job_id"))
        .join(job, and_(job.c.id == job_instance.c.job_id, counting))
        .group_by(job_instance.c.instance_id)
        .subquery()
    )
    listed = and_(job_instance.c.job_id == last.c.job_id, job_instance.c.instance_id == instance.c.id)
    of_instance = (instance.c[name] for name in ("sop_uid", "series_uid", "path", "size_bytes", "state", "reason"))
    return (
        select(
            *of_instance,
            series.c.state.label("series_state"),
            series.c.reason.label("series_reason"),
            last.c.job_id,
            job.c.state.label("job_state"),
            job.c.reason.label("job_reason"),
            job_instance.c.part,
            job_instance.c.status,
            job_instance.c.reason.label("part_reason"),
        )
        .outerjoin(series, series.c.series_uid == instance.c.series_uid)
        .outerjoin(last, last.c.instance_id == instance.c.id)
        .outerjoin(job, job.c.id == last.c.job_id)
        .outerjoin(job_instance, listed)
        .order_by(instance.c.id)
    )


def _deliveries(connection: Connection) -> _Deliveries:
    found: dict[tuple[int, int | None], list[Any]] = {}
    columns = select(delivery.c.job_id, delivery.c.part, delivery.c.destination, delivery.c.state, delivery.c.reason)
    for row in connection.execute(columns):
        found.setdefault((row.job_id, row.part), []).append(row)
    return found


def _where(row: Row[Any], sent: _Deliveries) -> tuple[str, str]:
    """Return where an instance is, and why it is there."""
    if row.job_id is None:
        return _without_job(row)
    if row.job_state in ("waiting", "leased"):
        return WAITING, row.job_state
    if row.job_state == "failed" and row.status != "written":
        return "ended", row.part_reason or row.job_reason or "FAILED"
    if row.status is None:
        return "lost", f"job {row.job_id} ended without a word about it"
    if row.status != "written":
        return "ended", row.part_reason or row.job_reason or row.status
    deliveries = sent.get((row.job_id, row.part), [])
    if any(one.state in ON_ITS_WAY for one in deliveries):
        return WAITING, "to be sent"
    failed = [one for one in deliveries if one.state == "failed"]
    return ("ended", f"{failed[0].reason} by {failed[0].destination}") if failed else (DELIVERED, "")


def _without_job(row: Row[Any]) -> tuple[str, str]:
    if row.state == "aside":
        return "ended", row.reason or "ASIDE"
    if row.series_state == "arriving":
        return WAITING, "for more of its series"
    if row.series_state == "ended" and row.series_reason:
        return "ended", row.series_reason
    return "lost", "its series was handed over without it"


def _there(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except OSError:
        return False


def _files(spool: Path) -> Iterator[str]:
    for path in sorted((spool / "instances").glob("*/*.dcm")):
        yield path.relative_to(spool).as_posix()
