"""The audit trail: who sent what, what was made of it, and where it went; one line of JSON for each event.

Events have the names and codes of DICOM's audit messages (PS3.15 A.5, after RFC 3881). They name UIDs, AE titles and
addresses, and no patient. An event is written after what it tells of is in the database: a process that is killed in
between loses the line, not the fact.
"""

from __future__ import annotations

import getpass
import json
import logging
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging.handlers import WatchedFileHandler
from typing import TYPE_CHECKING, Any, Final

from app.json_log import iso_time
from app.process import starting

if TYPE_CHECKING:  # `ctvae queue purge` writes a line too, and needs none of these
    from app.pacs.deliveries import Sending
    from app.pacs.destination import Destination
    from app.pacs.jobs import Ended, Lease
    from app.pacs.judge import Answer

logger = logging.getLogger("ctvae.audit")
trouble = logging.getLogger(__name__)

# Code → meaning, of context group 400 (PS3.16).
APPLICATION_ACTIVITY: Final = ("110100", "Application Activity")
INSTANCES_ACCESSED: Final = ("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED: Final = ("110104", "DICOM Instances Transferred")
STUDY_DELETED: Final = ("110105", "DICOM Study Deleted")
SECURITY_ALERT: Final = ("110113", "Security Alert")
APPLICATION_START: Final = ("110120", "Application Start")
APPLICATION_STOP: Final = ("110121", "Application Stop")
NODE_AUTHENTICATION: Final = ("110126", "Node Authentication")
RETRY: Final = ("retry", "Retry of failed work")  # DICOM has no types for these two
REPLAY: Final = ("replay", "Replay of past work")

SUCCESS, MINOR, SERIOUS = 0, 4, 8  # outcomes of RFC 3881 5.1.4
CREATE, EXECUTE, DELETE = "C", "E", "D"
ONCE_IN_S: Final = 60.0
MOST_PEERS: Final = 1000

Code = tuple[str, str]


@contextmanager
def trailing(file: str | None) -> Iterator[None]:
    """Write the events of the block into a file, which is opened anew where it was moved away; None: into the log.

    Raises:
        StartError: `NOT_ACCESSIBLE`.
    """
    before = logger.level, logger.propagate
    handler: logging.Handler | None = None
    if file is not None:
        with starting():
            handler = _AuditFile(file, encoding="ascii")
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        if handler is not None:
            logger.removeHandler(handler)
            handler.close()


def activity(code: Code, ae_title: str, reason: str | None = None) -> None:
    """Log that the listener starts or stops."""
    us = {"role": "application", "ae_title": ae_title, "process": os.getpid()}
    _emit(APPLICATION_ACTIVITY, EXECUTE, SUCCESS, [us], {}, reason=reason, code=code)


def arrived(series: Any, senders: Sequence[tuple[str, str, int]], reason: str | None, ae_title: str) -> None:
    """Log who sent a series that is complete.

    Args:
        series: its row.
        senders: calling AE title, address and number of instances of each.
        reason: why it is not worked; None where it was put into the queue.
        ae_title: ours.
    """
    who: list[dict[str, Any]] = [
        {"role": "source", "ae_title": title or None, "address": address or None, "instances": count}
        for title, address, count in senders
    ]
    who.append({"role": "destination", "ae_title": ae_title})
    about = {"study_uid": series.study_uid, "series_uid": series.series_uid}
    about["revision"] = series.revision + (reason is None)
    _emit(INSTANCES_TRANSFERRED, CREATE, MINOR if reason else SUCCESS, who, about, reason=reason)


def refused(calling_ae: str, address: str, why: str) -> None:
    """Log that an object was not stored."""
    who = {"role": "source", "ae_title": calling_ae or None, "address": address}
    _emit(INSTANCES_TRANSFERRED, CREATE, MINOR, [who], {}, reason=why)


def worked(lease: Lease, ended: Ended) -> None:
    """Log what was made of a series."""
    about = {
        "study_uid": lease.study_uid,
        "series_uid": lease.series_uid,
        "job": lease.job_id,
        "kind": lease.work.kind,
        "revision": lease.revision,
        "weights_sha256": lease.work.weights_sha256,
        "config_digest": lease.work.config_digest,
        "results": [
            {name: getattr(one, name) for name in ("sop_class_uid", "sop_uid", "part", "predecessor")}
            for one in ended.made
        ],
    }
    outcome = {"done": SUCCESS, "refused": MINOR, "failed": SERIOUS}[ended.state]
    who = {"role": "application", "process": os.getpid()}
    _emit(INSTANCES_ACCESSED, CREATE, outcome, [who], about, reason=ended.reason)


def sent(sending: Sending, to: Destination, answer: Answer, *, delivered: bool) -> None:
    """Log that a destination has a result, or that it will not get it."""
    where = to.path or to.url or f"{to.host}:{to.port}"
    who = {"role": "destination", "name": to.name, "ae_title": to.ae_title, "address": where}
    about = {"sop_class_uid": sending.sop_class_uid, "sop_uid": sending.sop_uid, "delivery": sending.delivery_id}
    about |= {"attempts": sending.attempts + 1, "status": answer.status}
    outcome = SUCCESS if delivered else SERIOUS
    _emit(INSTANCES_TRANSFERRED, CREATE, outcome, [who], about, reason=answer.reason)


def purged(series_uid: str, instances: int) -> None:
    """Log that instances of a series were deleted from the spool."""
    _emit(STUDY_DELETED, DELETE, SUCCESS, [_user()], {"series_uid": series_uid, "instances": instances})


def retried(job_ids: Sequence[int] | None, worked: int, sent: int, address: str | None = None) -> None:
    """Log that a person asked for failed work again.

    Args:
        job_ids: None for all that failed.
        worked: how many jobs.
        sent: how many deliveries.
        address: of the person, on the status page; None for a user of this machine.
    """
    who = _user() if address is None else {"role": "user", "address": address}
    about = {"jobs": None if job_ids is None else list(job_ids), "worked": worked, "sent": sent}
    _emit(APPLICATION_ACTIVITY, EXECUTE, SUCCESS, [who], about, code=RETRY)


def replayed(job_ids: Sequence[int], weights_sha256: str) -> None:
    """Log that a user queued past series again, as these jobs."""
    about = {"jobs": list(job_ids), "weights_sha256": weights_sha256}
    _emit(APPLICATION_ACTIVITY, EXECUTE, SUCCESS, [_user()], about, code=REPLAY)


def _user() -> dict[str, Any]:
    return {"role": "user", "user": getpass.getuser(), "process": os.getpid()}


@dataclass(slots=True)
class Rejections:
    """Peers that are not let in: a line a minute for each address, with how many there were.

    Attributes:
        clock: monotonic time in seconds.
    """

    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _told: dict[str, tuple[float, int]] = field(default_factory=dict)

    def heard(self, calling: str, called: str, address: str) -> None:
        """Log an association that was rejected for one of its AE titles."""
        who = {"role": "source", "ae_title": calling, "address": address}
        to = {"role": "destination", "ae_title": called}
        self._tell(address, [who, to], "associations", "AE_TITLE")

    def denied(self, address: str) -> None:
        """Log a request over HTTP without the token."""
        self._tell(address, [{"role": "source", "address": address}], "requests", "TOKEN")

    def _tell(self, address: str, participants: Sequence[dict[str, Any]], what: str, reason: str) -> None:
        if count := self._counted(address):
            _emit(SECURITY_ALERT, EXECUTE, MINOR, participants, {what: count}, reason=reason, code=NODE_AUTHENTICATION)

    def _counted(self, address: str) -> int:
        """Return how many there were since the last line; 0 where it is too early for another one."""
        now = self.clock()
        with self._lock:
            last, count = self._told.get(address, (-math.inf, 0))
            if now - last < ONCE_IN_S:
                self._told[address] = last, count + 1
                return 0
            if len(self._told) >= MOST_PEERS:
                self._told.clear()
            self._told[address] = now, 0
            return count + 1


def _emit(
    event: Code,
    action: str,
    outcome: int,
    participants: Sequence[dict[str, Any]],
    about: dict[str, Any],
    *,
    reason: str | None = None,
    code: Code | None = None,
) -> None:
    if not logger.isEnabledFor(logging.INFO):
        return
    entry = {
        "time": iso_time(time.time()),
        "source": platform.node(),
        "event": {"code": event[0], "meaning": event[1]},
        "type": {"code": code[0], "meaning": code[1]} if code else None,
        "action": action,
        "outcome": outcome,
        "reason": reason,
        "participants": list(participants),
        "object": about,
    }
    logger.info("%s", json.dumps(entry), extra={"audit": entry})


class _AuditFile(WatchedFileHandler):
    """A file that its owner alone can read; a disk that is full is said in the log, and stops nobody."""

    def _open(self) -> Any:
        handle = os.open(self.baseFilename, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        return os.fdopen(handle, "a", encoding=self.encoding)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 — of logging
        trouble.error("AUDIT_UNWRITABLE: an event is not in the audit trail; check the disk and rights of its file")
