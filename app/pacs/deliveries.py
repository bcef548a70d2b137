"""The queue of what is to be sent: leased to one sender at a time, as jobs are; each destination has its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydicom.uid import generate_uid
from sqlalchemy import Connection, and_, func, insert, or_, select, update

from app.pacs.backoff import Backoff
from app.pacs.database.engine import Database
from app.pacs.database.tables import commitment, delivery, now, result
from app.pacs.destination import Destination
from app.pacs.hooks import passing
from app.pacs.judge import Answer


@dataclass(frozen=True, slots=True)
class Sending:
    """A delivery in the hands of one sender.

    Attributes:
        state: `sending`, or `sent` where the peer is to be asked what became of it.
        token: fences off earlier leases.
        attempts: that failed before this one.
        age_s: since its result was made.
        path: of the SR, relative to the results.
    """

    delivery_id: int
    state: str
    token: int
    attempts: int
    age_s: float
    path: str
    sop_class_uid: str
    sop_uid: str


def take(database: Database, destination: str, lease_s: float) -> Sending | None:
    """Take the next thing to send to a destination, the oldest first."""
    waiting = and_(delivery.c.state == "waiting", delivery.c.not_before <= now())
    expired = and_(delivery.c.state == "sending", delivery.c.lease_until < now())
    return _take(database, destination, or_(waiting, expired), "sending", lease_s)


def take_unconfirmed(database: Database, destination: str, lease_s: float) -> Sending | None:
    """Take the next one that was sent and that the peer has not confirmed; not to be taken again for `lease_s`."""
    due = and_(delivery.c.state == "sent", delivery.c.not_before <= now())
    return _take(database, destination, due, "sent", lease_s)


def _take(database: Database, destination: str, due: Any, state: str, lease_s: float) -> Sending | None:
    chosen = select(delivery.c.id).where(delivery.c.destination == destination, due)
    one = chosen.order_by(delivery.c.not_before, delivery.c.id).limit(1).with_for_update(skip_locked=True)
    until = now() + lease_s
    values = {"state": state, "token": delivery.c.token + 1, "lease_until": until}
    if state == "sent":
        values["not_before"] = until
    taken = update(delivery).where(delivery.c.id == one.scalar_subquery()).values(values)
    with database.begin() as connection:
        found = connection.execute(taken.returning(delivery.c.id)).first()
        if found is None:
            return None
        sent = delivery.c
        columns = (sent.id, sent.state, sent.token, sent.attempts, now() - sent.created_at)
        about = (result.c.path, result.c.sop_class_uid, result.c.sop_uid)
        row = select(*columns, *about).join(result, result.c.id == sent.result_id).where(sent.id == found.id)
        sending = Sending(*connection.execute(row).one())
        passing("send.take.before")
    passing("send.take.after")
    return sending


def _held(sending: Sending) -> Any:
    columns = delivery.c
    return and_(columns.id == sending.delivery_id, columns.token == sending.token, columns.state == sending.state)


def _set(connection: Connection, sending: Sending, values: dict[str, Any]) -> bool:
    return bool(connection.execute(update(delivery).where(_held(sending)).values(values)).rowcount)


def is_replaced(database: Database, sending: Sending) -> bool:
    """Return whether another result names this one as its predecessor."""
    with database.read() as connection:
        newer = select(result.c.id).where(result.c.predecessor == sending.sop_uid).limit(1)
        return connection.execute(newer).first() is not None


def mark_sent(database: Database, sending: Sending, answer: Answer) -> bool:
    """Enter that the peer said it has it; False where another sender has the lease now, and will say so itself."""
    values = {"state": "sent", "status": answer.status, "reason": None, "sent_at": now(), "not_before": now()}
    with database.begin() as connection:
        held = _set(connection, sending, values)
        passing("send.sent.before")
    passing("send.sent.after")
    return held


def mark_again(database: Database, sending: Sending, answer: Answer, destination: Destination) -> bool:
    """Enter that it is to be sent again after a pause; as failed, and False, where it has been tried for too long."""
    if sending.age_s > destination.give_up_h * 3600:
        mark_failed(database, sending, answer)
        return False
    attempts = sending.attempts + 1
    pause = destination.backoff.pause_s(attempts)
    values = {"state": "waiting", "attempts": attempts, "not_before": now() + pause}
    with database.begin() as connection:
        _set(connection, sending, {**values, "status": answer.status, "reason": answer.reason})
    return True


def mark_failed(database: Database, sending: Sending, answer: Answer) -> None:
    """Enter that it is not sent, and why."""
    with database.begin() as connection:
        _set(connection, sending, {"state": "failed", "status": answer.status, "reason": answer.reason})


def fall_back(database: Database, sending: Sending, answer: Answer) -> bool:
    """Queue the same content in its next SOP class, to be sent at once; False where there is none: it has failed."""
    this, other = result.alias(), result.alias()
    part = or_(other.c.part == this.c.part, and_(other.c.part.is_(None), this.c.part.is_(None)))
    same = and_(other.c.job_id == this.c.job_id, part, other.c.rank == this.c.rank + 1)
    following = select(other.c.id).join(this, same).join(delivery, delivery.c.result_id == this.c.id)
    with database.begin() as connection:
        found = connection.execute(following.where(delivery.c.id == sending.delivery_id)).scalar()
        values: dict[str, Any] = {"state": "failed"}
        if found is not None:
            values = {"state": "waiting", "result_id": found, "not_before": now()}
        _set(connection, sending, {**values, "status": answer.status, "reason": answer.reason})
    return found is not None


def mark_confirmed(database: Database, sending: Sending, reason: str | None = None) -> None:
    """Enter that the peer has taken over the responsibility."""
    with database.begin() as connection:
        _set(connection, sending, {"state": "confirmed", "confirmed_at": now(), "reason": reason})


def postpone(database: Database, sending: Sending, pause_s: float, reason: str | None = None) -> None:
    """Ask again later about what was sent."""
    with database.begin() as connection:
        _set(connection, sending, {"not_before": now() + pause_s, "reason": reason})


def begin_commitment(database: Database, sending: Sending, wait_s: float) -> str:
    """Store a new transaction before the peer is asked: its report may come within milliseconds, and comes once.

    Returns:
        The Transaction UID.
    """
    uid = str(generate_uid(prefix=None))
    with database.begin() as connection:
        values = {"delivery_id": sending.delivery_id, "transaction_uid": uid, "asked_at": now()}
        connection.execute(insert(commitment).values(values))
        _set(connection, sending, {"not_before": now() + wait_s})
        passing("send.commitment.before")
    passing("send.commitment.after")
    return uid


def close_commitment(database: Database, transaction_uid: str, state: str, reason: str) -> None:
    """Enter that a question was refused, or had no answer in time."""
    this = and_(commitment.c.transaction_uid == transaction_uid, commitment.c.state == "asked")
    values = {"state": state, "reason": reason, "answered_at": now()}
    with database.begin() as connection:
        connection.execute(update(commitment).where(this).values(values))


def open_commitment(database: Database, sending: Sending) -> str | None:
    """Return the transaction of a delivery that nobody has answered; None where the peer was not asked yet."""
    unanswered = and_(commitment.c.delivery_id == sending.delivery_id, commitment.c.state == "asked")
    query = select(commitment.c.transaction_uid).where(unanswered).order_by(commitment.c.id.desc()).limit(1)
    with database.read() as connection:
        return connection.execute(query).scalar()


def report_commitment(database: Database, transaction_uid: str, committed: set[str], failed: dict[str, int]) -> bool:
    """Enter what a peer reported of a transaction.

    Args:
        database: of the queue.
        transaction_uid: of our question.
        committed: SOP Instance UIDs that the peer answers for.
        failed: SOP Instance UID → reason, of those that it does not: they are sent again.

    Returns:
        Whether the transaction is one of ours.
    """
    this = commitment.c.transaction_uid == transaction_uid
    with database.begin() as connection:
        query = select(commitment.c.id, commitment.c.state, delivery.c.id.label("delivery_id"), result.c.sop_uid)
        query = query.join(delivery, delivery.c.id == commitment.c.delivery_id)
        row = connection.execute(query.join(result, result.c.id == delivery.c.result_id).where(this)).first()
        if row is None:
            return False
        its_delivery = and_(delivery.c.id == row.delivery_id, delivery.c.state == "sent")
        values: dict[str, Any]
        if row.sop_uid in committed:
            state, reason = "confirmed", None
            values = {"state": "confirmed", "confirmed_at": now(), "reason": None}
        else:
            code = failed.get(row.sop_uid)
            state, reason = "refused", "NOT_NAMED" if code is None else f"0x{code:04X}"
            values = _after_refusal(connection, row.delivery_id, reason)
        answered = {"state": state, "reason": reason, "answered_at": now()}
        connection.execute(update(commitment).where(commitment.c.id == row.id).values(answered))
        connection.execute(update(delivery).where(its_delivery).values(values))
        passing("send.report.before")
    passing("send.report.after")
    return True


MOST_REFUSALS = 5
_AFTER_REFUSAL = Backoff(20.0)


def _after_refusal(connection: Connection, delivery_id: int, reason: str) -> dict[str, Any]:
    """Send again what the peer does not answer for; not for ever: it said each time that it had it."""
    refused = and_(commitment.c.delivery_id == delivery_id, commitment.c.state == "refused")
    times = connection.execute(select(func.count()).where(refused)).scalar_one() + 1
    refusal = {"status": reason, "reason": "COMMITMENT_REFUSED"}
    if times >= MOST_REFUSALS:
        return {"state": "failed", **refusal}
    pause = _AFTER_REFUSAL.pause_s(times)
    return {"state": "waiting", "attempts": delivery.c.attempts + 1, "not_before": now() + pause, **refusal}
