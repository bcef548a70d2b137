"""Rows for tests of the queue: series that arrived, jobs of them, and how such jobs end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread
from sqlalchemy import insert, select, update

from app.pacs import deliveries
from app.pacs.database.engine import Database
from app.pacs.database.tables import instance, job, now, series
from app.pacs.jobs import Became, Ended, Made
from app.pacs.judge import Answer, Verdict
from app.pacs.places import Places
from app.pacs.queue import enqueue, finish, lease
from app.pacs.work import Work
from tests.support.checkout import ROOT

WORK = Work("w" * 64, "c" * 64)
COMPREHENSIVE_3D = "1.2.840.10008.5.1.4.1.1.88.34"
CT = "1.2.840.10008.5.1.4.1.1.2"
SR_CLASSES = {"comprehensive_3d": COMPREHENSIVE_3D, "comprehensive": "1.2.840.10008.5.1.4.1.1.88.33"}


QUIET_S = 3600.0
"""Quiet time of a listener in a test, which says itself when a series is complete."""


def let_quiet_time_pass(database: Database) -> None:
    """Let what has arrived have arrived before the quiet time, so that each series is complete."""
    with database.begin() as connection:
        connection.execute(update(series).values(last_at=series.c.last_at - QUIET_S))


def arrive(
    database: Database, series_uid: str, slices: Sequence[int], copy: int = 0, source_ae: str = "MODALITY"
) -> list[int]:
    """Enter slices of a series, and the series where it is new; returns the ids of all that it has now."""
    with database.begin() as connection:
        if not connection.execute(select(series.c.id).where(series.c.series_uid == series_uid)).first():
            about = {"first_at": now(), "last_at": now(), "source_ae": source_ae, "sender": "127.0.0.1"}
            connection.execute(insert(series).values(series_uid=series_uid, study_uid="1.2", **about))
        for number in slices:
            uid = f"{series_uid}.{number}"
            values = {
                "study_uid": "1.2",
                "series_uid": series_uid,
                "sop_uid": uid,
                "sop_class_uid": CT,
                "copy": copy,
                "bytes_digest": f"bytes of {number} {copy}",
                "content_digest": f"content of {number} {copy}",
                "path": f"instances/{series_uid}/{uid}{f'.copy{copy}' if copy else ''}.dcm",
                "size_bytes": 1,
                "received_at": now(),
                "calling_ae": source_ae,
                "sender": "127.0.0.1",
            }
            connection.execute(insert(instance).values(values))
        ids = select(instance.c.id).where(instance.c.series_uid == series_uid).order_by(instance.c.id)
        return list(connection.execute(ids).scalars())


def queue_series(
    database: Database,
    series_uid: str,
    slices: Sequence[int] = (1, 2),
    work: Work = WORK,
    priority: int | None = None,
) -> int | None:
    """Let slices arrive and put the series, with all that it has now, into the queue."""
    ids = arrive(database, series_uid, slices)
    with database.begin() as connection:
        connection.execute(update(series).where(series.c.series_uid == series_uid).values(state="queued"))
        return enqueue(connection, series_uid, ids, work, priority)


def sent_to(database: Database, destination: str, answer: Answer) -> None:
    """Let a destination answer for the next result that waits for it."""
    sending = deliveries.take(database, destination, 60)
    assert sending
    if answer.verdict is Verdict.DELIVERED:
        deliveries.mark_sent(database, sending, answer)
    else:
        deliveries.mark_failed(database, sending, answer)


def made(sop_uid: str, part: int | None = None, predecessor: str | None = None, rank: int = 0) -> Made:
    return Made(part, "key", "comprehensive_3d", rank, COMPREHENSIVE_3D, sop_uid, predecessor, f"{sop_uid}.dcm")


def written(database: Database, job_id: int, *results: Made) -> Ended:
    """A job that ended well: each of its instances is in a series that was written."""
    from app.pacs.queue import listed

    became = [Became(one.instance_id, None, "written", None) for one in listed(database, job_id)]
    return Ended("done", made=results, became=tuple(became))


def state_of(database: Database, job_id: int | None) -> tuple[str, str | None]:
    with database.read() as connection:
        return tuple(connection.execute(select(job.c.state, job.c.reason).where(job.c.id == job_id)).one())  # type: ignore[return-value]


def spool_files(
    database: Database, places: Places, files: Sequence[Path], series_uid: str | None = None
) -> tuple[str, list[int]]:
    """Put files into the spool as a listener does; returns the series' UID and the ids of all that it has now.

    Args:
        series_uid: under which they are entered; None for their own.
    """
    headers = [dcmread(file, stop_before_pixels=True) for file in files]
    uid = series_uid or str(headers[0].SeriesInstanceUID)
    folder = places.spool / "instances" / uid
    folder.mkdir(parents=True, exist_ok=True)
    known = arrive(database, uid, [])
    with database.begin() as connection:
        for header, file in zip(headers, files, strict=True):
            path = folder / f"{header.SOPInstanceUID}.dcm"
            path.write_bytes(file.read_bytes())
            values = {
                "study_uid": str(header.StudyInstanceUID),
                "series_uid": uid,
                "sop_uid": str(header.SOPInstanceUID),
                "sop_class_uid": str(header.SOPClassUID),
                "bytes_digest": hashlib.sha256(path.read_bytes()).hexdigest(),
                "path": str(path.relative_to(places.spool)),
                "size_bytes": path.stat().st_size,
                "received_at": now(),
                "calling_ae": "MODALITY",
                "sender": "127.0.0.1",
            }
            row = insert(instance).values(values).returning(instance.c.id)
            known.append(int(connection.execute(row).scalar_one()))
    return uid, known


def paths_of(database: Database) -> list[str]:
    """Where the spool has its instances, as the database says."""
    with database.read() as connection:
        return list(connection.execute(select(instance.c.path).order_by(instance.c.id)).scalars())


def make_results(
    database: Database, places: Places, series_uid: str, destinations: Sequence[str], sop_uid: str = "2.25.1"
) -> int:
    """Let a series arrive and end, with an SR in both SOP classes that waits to be sent; returns the job's id."""
    job_id = queue_series(database, series_uid)
    held = lease(database, "w", 60)
    assert held is not None and held.job_id == job_id
    places.make()
    results = []
    for rank, (name, sop_class) in enumerate(SR_CLASSES.items()):
        dataset = dcmread(ROOT / "tests" / "data" / "sr_version_0.1.dcm")
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{sop_uid}{rank}"
        path = f"{job_id}-1/{series_uid}/{name}.dcm"
        (places.results / path).parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(places.results / path)
        results.append(Made(None, "key", name, rank, sop_class, f"{sop_uid}{rank}", None, path))
    finish(database, held, written(database, job_id, *results), destinations)
    return job_id
