"""`kill -9` at each boundary of queue, work and send: one result, nothing lost, nothing counted twice."""

from __future__ import annotations

import multiprocessing
import re
import signal

import pytest
from pydicom import dcmread
from sqlalchemy import select

from app.pacs.audit import audit
from app.pacs.database.engine import Database, open_database
from app.pacs.database.tables import delivery, job, result
from app.pacs.places import Places
from tests.support.checkout import ROOT
from tests.support.peer import peer
from tests.support.postgres import emptied
from tests.support.queued import paths_of, queue_series
from tests.support.waiting import PATIENCE_S, until
from tests.support.work_half import SR, let_leases_run_out, work_and_send

MOMENTS = [
    "queue.lease.before",
    "queue.lease.after",
    "work.mkdir.after",
    "work.answer.after",
    "queue.finish.before",
    "queue.finish.after",
    "send.take.before",
    "send.take.after",
    "send.answer.after",
    "send.sent.before",
    "send.sent.after",
]
# Not on the way of a job that goes well: failed attempts, storage commitment and retention.
ELSEWHERE = {"queue.fail", "send.commitment", "send.report", "purge.digest", "purge.unlink"}


@pytest.fixture(scope="module")
def server() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.work_half"])
    return context


def ended(process: multiprocessing.process.BaseProcess) -> int | None:
    """Wait for a process; how it ended."""
    process.join(PATIENCE_S)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


@pytest.mark.parametrize("moment", MOMENTS)
def test_after_a_kill_the_next_start_ends_what_was_begun(server, tmp_path, moment):
    places = Places(tmp_path / "listener")
    places.make()
    database = open_database(places.database_url)
    queue_series(database, "1.1")
    fill(places, paths_of(database))
    uid = str(dcmread(SR).SOPInstanceUID)
    with peer() as pacs:
        asked = str(places.folder), pacs.port, uid
        killed, after = (server.Process(target=work_and_send, args=(*asked, at)) for at in (moment, ""))
        killed.start()
        assert ended(killed) == -signal.SIGKILL
        let_leases_run_out(database, killed.pid)
        after.start()
        assert ended(after) == 0
    with database.read() as connection:
        assert connection.execute(select(job.c.state)).scalars().all() == ["done"]
        assert connection.execute(select(result.c.sop_uid)).scalars().all() == [uid]
        assert connection.execute(select(delivery.c.state)).scalars().all() == ["sent"]
    assert {stored for _, stored in pacs.stored} == {uid}
    assert len(pacs.stored) == (2 if moment in ("send.answer.after", "send.sent.before") else 1)
    found = audit(database, places)
    assert (found.acknowledged, found.delivered, found.difference) == (2, 2, 0)
    database.close()


def test_of_two_workers_on_one_database_one_is_killed_and_the_other_does_its_job(server, tmp_path, postgres_server):
    places = Places(tmp_path / "listener")
    places.make()
    url = emptied(postgres_server)
    database = open_database(url)
    for number in range(1, 7):
        queue_series(database, f"1.{number}")
    fill(places, paths_of(database))
    uid = str(dcmread(SR).SOPInstanceUID)
    with peer() as pacs:
        asked = str(places.folder), pacs.port, uid
        first, other = (
            server.Process(target=work_and_send, args=(*asked, at, url)) for at in ("queue.finish.before", "")
        )
        first.start()
        until(lambda: leased(database))  # else the other one might leave it nothing
        other.start()
        assert ended(first) == -signal.SIGKILL
        let_leases_run_out(database, first.pid)
        assert ended(other) == 0
    with database.read() as connection:
        assert connection.execute(select(job.c.state)).scalars().all() == ["done"] * 6
        assert len(connection.execute(select(result.c.job_id).distinct()).all()) == 6
        assert connection.execute(select(delivery.c.state)).scalars().all() == ["sent"] * 6
        assert sorted(connection.execute(select(job.c.token)).scalars()) == [1, 1, 1, 1, 1, 2]
    assert len(pacs.stored) == 6 and audit(database, places).difference == 0
    database.close()


def leased(database: Database) -> bool:
    with database.read() as connection:
        return connection.execute(select(job.c.id).where(job.c.token > 0)).first() is not None


def fill(places: Places, paths: list[str]) -> None:
    for path in paths:
        (places.spool / path).parent.mkdir(parents=True, exist_ok=True)
        (places.spool / path).write_bytes(b"1")


def test_every_moment_of_queue_work_and_send_is_tried():
    named = set()
    for path in (ROOT / "app" / "pacs").glob("*.py"):
        named |= set(re.findall(r'passing\("((?:queue|work|send|purge)\.[\w.]+)"\)', path.read_text()))
    assert {name for name in named if name.rpartition(".")[0] not in ELSEWHERE} == set(MOMENTS)
