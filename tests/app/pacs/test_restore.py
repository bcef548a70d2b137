"""A backup made while everything runs, as docs/service.md says: after a restore nothing acknowledged is lost."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

from pydicom import dcmread
from sqlalchemy import select

from app.pacs.audit import audit
from app.pacs.database.engine import open_database
from app.pacs.database.tables import job, series
from app.pacs.deliver import Deliverer
from app.pacs.destination import Destination
from app.pacs.places import Places
from app.pacs.worker import Worker
from app.pacs.worker_settings import WorkerSettings
from tests.support.arrival import arrival
from tests.support.checkout import ROOT
from tests.support.listeners import stored
from tests.support.peer import Peer, peer
from tests.support.queued import SR_CLASSES
from tests.support.tiny_ct import put, stored_values, write_tiny_ct
from tests.support.waiting import PATIENCE_S
from tests.support.work_half import CHILD, SR

BACKUP = "VACUUM INTO '/backup/queue.db'"  # of the page


def receive(folder: Path, slices: list[Path], jobs: int) -> None:
    """Run a listener; the slices make so many jobs in all."""
    with arrival(folder) as (here, completer):
        assert not slices or stored(here.port, *slices) == [0] * len(slices)
        completer.step()
        assert len(here.rows(job)) == jobs and {row.state for row in here.rows(series)} == {"queued"}


def work_and_send(folder: Path, pacs: Peer) -> None:
    """Work and send all that waits; the child encodes nothing, but copies an SR."""
    places, to = Places(folder), Destination("PACS", ae_title="PACS", port=pacs.port, timeout_s=PATIENCE_S)
    places.make()
    database = open_database(places.database_url)
    program = ("-c", CHILD, str(SR), SR_CLASSES["comprehensive_3d"], str(dcmread(SR).SOPInstanceUID))
    worker = Worker(database, places, WorkerSettings(), lambda source_ae: ["PACS"], program=program)
    sender = Deliverer(database, places, to, "CTVAE")
    try:
        while worker._step() or sender.deliver_one():
            pass
    finally:
        worker._child.end()
        database.close()


def second_series(dataset: object, d: int) -> None:
    put(dataset, SeriesInstanceUID="1.2.826.0.1.9", SOPInstanceUID=f"1.2.826.0.1.9.{d + 1}")  # type: ignore[arg-type]


def test_what_came_after_the_copy_of_the_database_is_found_and_worked_after_a_restore(tmp_path):
    assert BACKUP in (ROOT / "docs" / "service.md").read_text()
    one = write_tiny_ct(tmp_path / "one", stored_values(4))
    other = write_tiny_ct(tmp_path / "other", stored_values(3), change=second_series)
    used, restored = tmp_path / "used", tmp_path / "restored"
    used.mkdir()
    with peer() as pacs:
        receive(used, one[:3], jobs=1)
        work_and_send(used, pacs)
        with closing(sqlite3.connect(used / "queue.db")) as database:
            database.execute(BACKUP.replace("/backup", str(tmp_path)))
        receive(used, [one[3], *other], jobs=3)  # a revision of the first series, and a new one
        work_and_send(used, pacs)
        shutil.copytree(used, restored, ignore=shutil.ignore_patterns("queue.db*", "work", ".ctvae.lock"))
        shutil.copy(tmp_path / "queue.db", restored)

        receive(restored, [], jobs=3)
        places, database = Places(restored), open_database(Places(restored).database_url)
        assert len(list(places.results.iterdir())) == 3  # two of jobs that this database does not know
        work_and_send(restored, pacs)
        found = audit(database, places)
        with database.read() as connection:
            states = Counter(connection.execute(select(job.c.state)).scalars())
        database.close()
    assert (found.acknowledged, found.delivered, found.difference, found.unknown_files) == (7, 7, 0, ())
    assert states == {"done": 3} and len(pacs.stored) == 5
