"""Rows for what arrived: one for each file of the spool, and one for each series with the state of its arrival."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from app.pacs.database.engine import Database
from app.pacs.database.tables import instance, now, series
from app.pacs.hooks import passing
from app.pacs.spool import Kept, Spool, digest_of, is_safe_uid
from operators.dicom.content_digest import content_digest
from operators.dicom.enhanced_ct import sop_class
from operators.dicom.read_header import read_instance
from operators.errors import SeriesRejected

logger = logging.getLogger(__name__)

OTHER_CONTENT: Final = "OTHER_CONTENT"


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
    try:
        found = read_instance(path)
    except SeriesRejected as error:
        raise ValueError("the header is damaged") from error
    if found is None:
        raise ValueError("no DICOM data set")

    def uid(keyword: str) -> str:
        value = str(found.header.get(keyword) or "")
        if not is_safe_uid(value):
            raise ValueError(f"{keyword} is {'no valid UID' if value else 'missing'}")
        return value

    study, of_series, sop = uid("StudyInstanceUID"), uid("SeriesInstanceUID"), uid("SOPInstanceUID")
    return Identity(study, of_series, sop, str(sop_class(found.header)))


def is_known(database: Database, path: Path, who: Identity, digest: str) -> tuple[bool, frozenset[int]]:
    """Whether a file is one that was purged after its result; and which copy numbers purged ones have.

    Args:
        database: with their rows.
        path: of the file.
        who: what it is.
        digest: of its bytes.
    """
    wanted = select(instance.c.copy, instance.c.bytes_digest, instance.c.content_digest).where(
        instance.c.series_uid == who.series_uid, instance.c.sop_uid == who.sop_uid, instance.c.state == "purged"
    )
    with database.read() as connection:
        purged = connection.execute(wanted).all()
    if any(row.bytes_digest == digest for row in purged):
        return True, frozenset()
    contents = {row.content_digest for row in purged} - {None}
    return bool(contents) and content_digest(path) in contents, frozenset(row.copy for row in purged)


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
    try:
        return _record(database, kept, who, values, origin)
    except IntegrityError:  # another listener was faster, between our look and our row
        return _record(database, kept, who, values, origin)


def _record(database: Database, kept: Kept, who: Identity, values: dict[str, Any], origin: Origin) -> bool:
    # Not by ON CONFLICT: such a statement is compiled anew each time, which took half of the time of an arrival.
    with database.begin() as connection:
        new = connection.execute(select(instance.c.id).where(instance.c.path == kept.path)).first() is None
        if not new:
            _name_sender(connection, kept, origin)
        else:
            connection.execute(insert(instance).values(received_at=now()), values)
            if kept.copy:
                detail = f"other content under SOP Instance UID {kept.sop_uid} was kept apart; the first is used"
                add_finding(connection, kept.series_uid, OTHER_CONTENT, detail)
            else:
                _arriving(connection, who, origin)
        passing("receive.commit.before")
    passing("receive.commit.after")
    return new


def _arriving(connection: Connection, who: Identity, origin: Origin) -> None:
    """A series gets an instance more; one that was complete is so no longer, and its time begins anew."""
    this = series.c.series_uid == who.series_uid
    found = connection.execute(select(series.c.state).where(this).with_for_update()).first()
    arriving = found is not None and found.state == "arriving"
    if arriving and origin.fetched:
        return  # its times and its sender are those of what was sent
    sender = {"source_ae": origin.calling_ae, "sender": origin.address}
    fresh = {"state": "arriving", "attempts": 0, "not_before": None, "reason": None}
    if found is None:
        first = insert(series).values(first_at=now(), last_at=now())
        connection.execute(first, {"series_uid": who.series_uid, "study_uid": who.study_uid} | sender | fresh)
        return
    changed = fresh | {name: value for name, value in sender.items() if value}
    begun = {} if arriving else {"first_at": now()}
    connection.execute(update(series).where(this).values(last_at=now(), **begun, **changed))


def _name_sender(connection: Connection, kept: Kept, origin: Origin) -> None:
    """A row that a restart made gets its sender when the instance, never acknowledged, is sent again."""
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
        who = identify(path)
    except (OSError, ValueError) as error:
        logger.error("%s in the spool cannot be read (%s); look at it and move it away", kept.path, error)
        return False
    return record(database, kept, who, digest_of(path), path.stat().st_size, Origin())
