"""Rows for what arrived: one for each file of the spool, and one for each series with the state of its arrival."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, bindparam, case, insert, select, update
from sqlalchemy.exc import IntegrityError

from app.pacs.database.engine import AWAY, Database
from app.pacs.database.prepared import Driver, Prepared
from app.pacs.database.tables import instance, now, series
from app.pacs.hooks import passing
from app.pacs.spool import Kept, Spool, is_safe_uid
from operators.dicom.content_digest import content_digest
from operators.dicom.enhanced_ct import sop_class
from operators.dicom.read_header import read_instance
from operators.dicom.scan import SCANNED_BYTES, scan_elements
from operators.errors import SeriesRejected
from operators.uids import file_sha256

logger = logging.getLogger(__name__)

OTHER_CONTENT: Final = "OTHER_CONTENT"
TRIES: Final = 5
_CLASS, _INSTANCE, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
_WANTED: Final = frozenset({_CLASS, _INSTANCE, _STUDY, _SERIES})
_AFTER: Final = frozenset({0x00200010})  # the first element after them that every image has


@dataclass(frozen=True, slots=True)
class Identity:
    """What a data set says that it is.

    Attributes:
        study_uid: StudyInstanceUID; the others likewise.
    """

    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class_uid: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent an instance; empty where a restart found it without a row.

    Attributes:
        calling_ae: AE title of the sender.
        address: of the sender.
        fetched: whether we asked for it: then it came from the PACS, and the series from elsewhere.
    """

    calling_ae: str = ""
    address: str = ""
    fetched: bool = False


def identify(path: Path) -> Identity:
    """Read what a file is.

    Raises:
        ValueError: what is wrong with it.
        OSError: where the file cannot be read.
    """
    found = _scanned(path) or _read(path)
    for keyword, uid in (("Study", found.study_uid), ("Series", found.series_uid), ("SOP", found.sop_uid)):
        if not is_safe_uid(uid):
            raise ValueError(f"{keyword}InstanceUID is {'no valid UID' if uid else 'missing'}")
    return found


def _scanned(path: Path) -> Identity | None:
    """Return the identity by the few elements needed, 20 times as fast as by the whole header; None if that fails."""
    with path.open("rb", buffering=0) as file:
        first = file.read(SCANNED_BYTES)
    scanned = scan_elements(first, _WANTED, _AFTER, whole=len(first) < SCANNED_BYTES)
    found = {tag: value.decode("latin-1").rstrip("\0 ") for tag, _, value in scanned.elements} if scanned else {}
    if found.keys() != _WANTED:
        return None
    return Identity(found[_STUDY], found[_SERIES], found[_INSTANCE], found[_CLASS])


def _read(path: Path) -> Identity:
    try:
        found = read_instance(path)
    except SeriesRejected as error:
        raise ValueError("the header is damaged") from error
    if found is None:
        raise ValueError("no DICOM data set")
    uids = [str(found.header.get(f"{one}InstanceUID") or "") for one in ("Study", "Series", "SOP")]
    return Identity(uids[0], uids[1], uids[2], str(sop_class(found.header)))


def is_known(database: Database, path: Path, who: Identity, digest: str) -> tuple[bool, frozenset[int]]:
    """Return whether a file is one that was purged after its result, and which copy numbers purged ones have.

    Args:
        database: with their rows.
        path: of the file.
        who: what it is.
        digest: of its bytes.
    """
    with database.driving_reads() as driver:
        purged = driver.run(_PURGED, {"of_series": who.series_uid, "of_sop": who.sop_uid}).fetchall()
    if any(bytes_digest == digest for _, bytes_digest, _ in purged):
        return True, frozenset()
    contents = {content for _, _, content in purged} - {None}
    return bool(contents) and content_digest(path) in contents, frozenset(copy for copy, _, _ in purged)


def record(database: Database, kept: Kept, who: Identity, digest: str, size_bytes: int, origin: Origin) -> bool:
    """Give a file its row, if it has none, and say that its series is arriving.

    Other content under a known UID is put aside, with a finding of the series: what a result was made from stays.

    Returns:
        Whether the row is new.
    """
    values = asdict(who) | {
        "copy": kept.copy,
        "path": kept.path,
        "bytes_digest": digest,
        "size_bytes": size_bytes,
        "calling_ae": origin.calling_ae,
        "sender": origin.address,
        "state": "aside" if kept.copy else "kept",
        "reason": OTHER_CONTENT if kept.copy else None,
    }
    for _ in range(TRIES):
        try:
            _add(database, kept, who, values, origin)
        except IntegrityError:  # it has its row; or, of its series, another listener was faster
            with database.begin() as connection:
                if connection.execute(select(instance.c.id).where(instance.c.path == kept.path)).first():
                    _name_sender(connection, kept, origin)
                    return False
        else:
            return True
    raise RuntimeError(f"{kept.path} gets no row")


def _add(database: Database, kept: Kept, who: Identity, values: dict[str, Any], origin: Origin) -> None:
    if kept.copy:
        detail = f"other content under SOP Instance UID {kept.sop_uid} was kept apart; the first is used"
        with database.begin() as connection:
            connection.execute(_ENTER.statement, values)
            add_finding(connection, kept.series_uid, OTHER_CONTENT, detail)
            passing("receive.commit.before")
    else:
        with database.driving() as driver:
            driver.run(_ENTER, values)
            _arriving(driver, who, origin)
            passing("receive.commit.before")
    passing("receive.commit.after")


def _arriving(driver: Driver, who: Identity, origin: Origin) -> None:
    """Enter an instance more for a series; a complete one is no longer complete, and its time begins anew."""
    this = {"of_series": who.series_uid}
    sender = {"source_ae": origin.calling_ae, "sender": origin.address}
    again = _again(named=bool(origin.calling_ae), fetched=origin.fetched)
    if driver.run(again, this | sender if origin.calling_ae else this).rowcount:
        return
    if not origin.fetched or driver.run(_KNOWN_SERIES, this).fetchone() is None:
        driver.run(_NEW_SERIES, {"series_uid": who.series_uid, "study_uid": who.study_uid} | sender)


_THIS: Final = series.c.series_uid == bindparam("of_series")
_FRESH: Final = {"state": "arriving", "attempts": 0, "not_before": None, "reason": None}
_SENDER: Final = ("source_ae", "sender")
_PURGED: Final = Prepared(
    select(instance.c.copy, instance.c.bytes_digest, instance.c.content_digest).where(
        instance.c.series_uid == bindparam("of_series"),
        instance.c.sop_uid == bindparam("of_sop"),
        instance.c.state == "purged",
    )
)
_ENTER: Final = Prepared(
    insert(instance).values(received_at=now()),
    *("study_uid", "series_uid", "sop_uid", "sop_class_uid", "copy", "path", "bytes_digest", "size_bytes"),
    *("calling_ae", "sender", "state", "reason"),
)
_KNOWN_SERIES: Final = Prepared(select(series.c.id).where(_THIS))
_NEW_SERIES: Final = Prepared(
    insert(series).values(first_at=now(), last_at=now(), **_FRESH), "series_uid", "study_uid", *_SENDER
)


@cache
def _again(*, named: bool, fetched: bool) -> Prepared:
    """Return the statement for one instance more of a known series, by who sends it and whether we asked for it."""
    begun = case((series.c.state == "arriving", series.c.first_at), else_=now())
    sender: dict[str, Any] = {name: bindparam(name) for name in _SENDER} if named else {}
    again = update(series).where(_THIS).values(first_at=begun, last_at=now(), **_FRESH, **sender)
    # While it is arriving, its times and its sender are those of what was sent.
    return Prepared(again.where(series.c.state != "arriving") if fetched else again)


def _name_sender(connection: Connection, kept: Kept, origin: Origin) -> None:
    """Enter the sender in a row that a restart made, when the instance, never acknowledged, is sent again."""
    if not origin.calling_ae:
        return
    who = {"calling_ae": origin.calling_ae, "sender": origin.address}
    unnamed = instance.c.path == kept.path, instance.c.calling_ae == ""
    if connection.execute(update(instance).where(*unnamed).values(**who)).rowcount:
        of_series = series.c.series_uid == kept.series_uid, series.c.source_ae == ""
        sender = {"source_ae": origin.calling_ae, "sender": origin.address}
        connection.execute(update(series).where(*of_series).values(**sender))


def add_finding(connection: Connection, series_uid: str, code: str, detail: str) -> None:
    """Add to the findings of a series, once."""
    this = series.c.series_uid == series_uid
    listed = connection.execute(select(series.c.findings).where(this).with_for_update()).scalar_one_or_none()
    finding = {"code": code, "detail": detail}
    if listed is not None and finding not in (findings := json.loads(listed)):
        connection.execute(update(series).where(this).values(findings=json.dumps([*findings, finding])))


def reconcile(database: Database, spool: Spool) -> int:
    """Give each file of the spool that has no row its row: a kill can come between the two.

    Returns:
        How many had none.
    """
    missed = 0
    for series_uid, files in groupby(spool.files(), key=lambda kept: kept.series_uid):
        with database.read() as connection:
            rows = set(connection.execute(select(instance.c.path).where(instance.c.series_uid == series_uid)).scalars())
        for kept in files:
            if kept.path not in rows:
                missed += _found(database, spool, kept)
    return missed


def _found(database: Database, spool: Spool, kept: Kept) -> bool:
    path = spool.root / kept.path
    try:
        return record(database, kept, identify(path), file_sha256(path), path.stat().st_size, Origin())
    except AWAY:
        raise
    except Exception as error:  # one file must not keep the listener from starting
        why = str(error) if isinstance(error, (OSError, ValueError)) else type(error).__name__
        logger.error("%s in the spool gets no row (%s); look at it and move it away", kept.path, why)
        logger.debug("%s in the spool", kept.path, exc_info=True)
        return False
