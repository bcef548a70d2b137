"""The queue: one job per series and revision, leased to one worker at a time, and what came of it.

A lease ends by itself unless its worker's heartbeat prolongs it, so a job whose worker was killed is taken up again.
Each lease has a token, higher than all before: whoever comes with an older one changes nothing any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, and_, bindparam, exists, func, insert, or_, select, update

from app.pacs.backoff import Backoff
from app.pacs.database.engine import Database
from app.pacs.database.tables import CHAIN, delivery, instance, job, job_instance, now, result, series
from app.pacs.hooks import passing
from app.pacs.jobs import Current, Ended, Lease, Listed, LostLease, Made
from app.pacs.work import Arrived, Kind, Work, key_of

LOST_LEASES: Final = 25
"""A job whose worker vanished so often without a word is given up: whatever it does, it takes the machine with it."""

PRIORITY: Final[Mapping[Kind, int]] = {"main": 0, "shadow": -20}
"""The highest first."""

REPLAY: Final = -10


def enqueue(
    connection: Connection, series_uid: str, instances: Sequence[int], work: Work, priority: int | None = None
) -> int | None:
    """Put a series into the queue, with the instances that are there now; whatever comes later is another revision.

    Jobs of earlier revisions that nobody has begun are superseded: this one's list holds theirs.

    Args:
        connection: of the transaction in which the caller says that the series was handed over.
        series_uid: has a row in `series`.
        instances: ids.
        work: what is to be done.
        priority: the highest first; None for that of the kind of work.

    Returns:
        The job's id; None where the same job is known already, whatever its state.

    Raises:
        ValueError: no instances.
    """
    if not instances:
        raise ValueError(f"no instances of series {series_uid}")
    about = connection.execute(select(series).where(series.c.series_uid == series_uid)).one()
    key = key_of(series_uid, _arrived(connection, series_uid, instances), work)
    if connection.execute(select(job.c.id).where(job.c.key == key)).first():
        return None
    chain = _chain(job, series_uid, work)
    revision = connection.execute(select(func.coalesce(func.max(job.c.revision), 0)).where(chain)).scalar_one() + 1
    values = {
        "key": key,
        "series_uid": series_uid,
        "study_uid": about.study_uid,
        "source_ae": about.source_ae,
        "kind": work.kind,
        "weights_sha256": work.weights_sha256,
        "config_digest": work.config_digest,
        "models": work.models,
        "version": work.version,
        "revision": revision,
        "findings": about.findings,
        "priority": PRIORITY[work.kind] if priority is None else priority,
        "not_before": now(),
        "created_at": now(),
    }
    made = int(connection.execute(insert(job).values(values).returning(job.c.id)).scalar_one())
    connection.execute(insert(job_instance), [{"job_id": made, "instance_id": one} for one in instances])
    superseded = {"state": "superseded", "reason": "REVISED", "message": f"by job {made}", "ended_at": now()}
    connection.execute(update(job).where(chain, job.c.id < made, job.c.state == "waiting").values(superseded))
    return made


def _arrived(connection: Connection, series_uid: str, instances: Sequence[int]) -> list[Arrived]:
    # Not by a list of ids in the statement: SQLite takes 32,766 of them, and a series in time may have more slices.
    columns = select(instance.c.id, instance.c.sop_uid, instance.c.copy, instance.c.bytes_digest)
    rows, wanted = connection.execute(columns.where(instance.c.series_uid == series_uid)), set(instances)
    return [Arrived(row.sop_uid, row.copy, row.bytes_digest) for row in rows if row.id in wanted]


def _chain(table: Any, series_uid: str, work: Work) -> Any:
    """Return the condition for the jobs whose results can take each other's place."""
    return and_(
        table.c.series_uid == series_uid,
        table.c.kind == work.kind,
        table.c.weights_sha256 == work.weights_sha256,
        table.c.config_digest == work.config_digest,
    )


def lease(database: Database, worker: str, lease_s: float) -> Lease | None:
    """Take the next job: the highest priority, then the oldest; never two revisions of one series at once.

    Args:
        database: of the queue.
        worker: its name, for people.
        lease_s: until when, unless `heartbeat` prolongs it.
    """
    earlier = job.alias()
    same = [job.c[name] == earlier.c[name] for name in CHAIN]
    blocked = exists().where(*same, earlier.c.id < job.c.id, earlier.c.state.in_(("waiting", "leased")))
    expired = and_(job.c.state == "leased", job.c.lease_until < now())
    due = or_(and_(job.c.state == "waiting", job.c.not_before <= now()), expired)
    chosen = select(job.c.id).where(due, ~blocked).order_by(job.c.priority.desc(), job.c.id).limit(1)
    taken = {
        "state": "leased",
        "token": job.c.token + 1,
        "worker": worker,
        "lease_until": now() + lease_s,
        "started_at": now(),
    }
    one = chosen.with_for_update(skip_locked=True, of=job).scalar_subquery()
    lost = {"state": "failed", "reason": "WORKER_LOST", "lease_until": None, "ended_at": now()}
    lost["message"] = f"the worker ended without a word {LOST_LEASES} times while on this job; look at its series"
    with database.begin() as connection:
        connection.execute(update(job).where(expired, job.c.token >= LOST_LEASES).values(lost))
        row = connection.execute(update(job).where(job.c.id == one).values(taken).returning(*job.c)).first()
        if row is None:
            return None
        passing("queue.lease.before")
    passing("queue.lease.after")
    return _lease(row)


def _lease(row: Any) -> Lease:
    kind: Kind = row.kind
    work = Work(row.weights_sha256, row.config_digest, kind, row.models, row.version)
    findings = tuple((one["code"], one["detail"]) for one in json.loads(row.findings))
    about = row.series_uid, row.study_uid, row.source_ae, row.revision, row.attempts
    return Lease(row.id, row.token, *about, work, findings)


def heartbeat(database: Database, lease: Lease, lease_s: float) -> bool:
    """Prolong a lease; False where it was lost."""
    with database.begin() as connection:
        held = connection.execute(update(job).where(_held(lease)).values(lease_until=now() + lease_s))
    return bool(held.rowcount)


def end_leases(database: Database) -> None:
    """End the leases of jobs and deliveries: for a listener that is alone on its queue, so that their holders are dead.

    Where several share a queue, a dead holder cannot be told from a slow one, and leases end by themselves.
    """
    ended = {"lease_until": now() - 1}
    with database.begin() as connection:
        connection.execute(update(job).where(job.c.state == "leased").values(ended))
        connection.execute(update(delivery).where(delivery.c.state == "sending").values(ended))


def _held(lease: Lease) -> Any:
    return and_(job.c.id == lease.job_id, job.c.token == lease.token, job.c.state == "leased")


def finish(database: Database, lease: Lease, ended: Ended, destinations: Iterable[str] = ()) -> None:
    """Record how a job ended, and where its results are to be sent: all of it, or nothing.

    Raises:
        LostLease: another worker has it.
    """
    with database.begin() as connection:
        values: dict[str, Any] = {"state": ended.state, "reason": ended.reason, "message": ended.message}
        values |= {"ended_at": now(), "attempts": lease.attempts + (ended.state == "failed")}
        if not connection.execute(update(job).where(_held(lease)).values(**values, lease_until=None)).rowcount:
            raise LostLease
        if ended.became:
            rows = and_(job_instance.c.job_id == lease.job_id, job_instance.c.instance_id == bindparam("of_instance"))
            became = [
                {"of_instance": one.instance_id, "part": one.part, "status": one.status, "reason": one.reason}
                for one in ended.became
            ]
            connection.execute(update(job_instance).where(rows), became)
        for made in ended.made:
            _put_result(connection, lease.job_id, made, () if made.rank else destinations)
        passing("queue.finish.before")
    passing("queue.finish.after")


def _put_result(connection: Connection, job_id: int, made: Made, destinations: Iterable[str]) -> None:
    values = {name: getattr(made, name) for name in Made.__slots__}
    row = insert(result).values(**values, job_id=job_id, created_at=now()).returning(result.c.id)
    result_id = connection.execute(row).scalar_one()
    sent = {"job_id": job_id, "result_id": result_id, "part": made.part, "not_before": now(), "created_at": now()}
    for name in destinations:
        connection.execute(insert(delivery).values(**sent, destination=name))


def put_back(database: Database, lease: Lease) -> None:
    """Give a job back as it was taken: the worker ends in order. Nothing happens where the lease was lost."""
    with database.begin() as connection:
        back = {"state": "waiting", "lease_until": None, "not_before": now()}
        connection.execute(update(job).where(_held(lease)).values(back))


def fail(database: Database, lease: Lease, ended: Ended, backoff: Backoff, most: int) -> bool:
    """Record that an attempt failed: try again after a pause; after so many attempts, or where it was revised, end it.

    Args:
        database: of the queue.
        lease: of the job.
        ended: how the attempt ended, with its reason.
        backoff: how long the pause is.
        most: attempts.

    Returns:
        Whether it is tried again; False where the caller is to `finish` it.

    Raises:
        LostLease: another worker has it.
    """
    attempts = lease.attempts + 1
    if attempts >= most:
        return False
    later = job.alias()
    revised = exists().where(_chain(later, lease.series_uid, lease.work), later.c.id > lease.job_id)
    last: dict[str, Any] = {"reason": ended.reason, "message": ended.message, "attempts": attempts, "lease_until": None}
    with database.begin() as connection:
        if connection.execute(select(revised)).scalar():
            values = {**last, "state": "superseded", "ended_at": now()}
        else:
            values = {**last, "state": "waiting", "not_before": now() + backoff.pause_s(attempts)}
        if not connection.execute(update(job).where(_held(lease)).values(values)).rowcount:
            raise LostLease
        passing("queue.fail.before")
    passing("queue.fail.after")
    return True


def current_results(database: Database, series_uid: str, work: Work) -> tuple[Current, ...]:
    """Return the current results of a series under a model and a configuration."""
    other = result.alias()
    replaced = exists().where(other.c.predecessor == result.c.sop_uid)
    columns = (result.c.part, result.c.sr_class, result.c.sop_uid, result.c.path)
    found = select(*columns).join(job).where(_chain(job, series_uid, work), ~replaced).order_by(result.c.id)
    with database.read() as connection:
        return tuple(Current(*row) for row in connection.execute(found))


def listed(database: Database, job_id: int) -> tuple[Listed, ...]:
    """Return the files that a job works on, in a fixed order."""
    columns = select(instance.c.id, instance.c.path).join(job_instance, job_instance.c.instance_id == instance.c.id)
    with database.read() as connection:
        rows = connection.execute(columns.where(job_instance.c.job_id == job_id).order_by(instance.c.id))
        return tuple(Listed(*row) for row in rows)
