"""A second bundle beside the first, and a backlog for a new one: neither disturbs what the PACS gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from app.pacs.audit import audit
from app.pacs.backoff import Backoff
from app.pacs.database.engine import Database
from app.pacs.database.tables import delivery, job, result, series
from app.pacs.judge import judged
from app.pacs.listen import emit_to
from app.pacs.places import Places
from app.pacs.purge import purgeable
from app.pacs.queue import current_results
from app.pacs.replay import replay
from app.pacs.worker import Worker
from app.pacs.worker_settings import WorkerSettings
from tests.support.queued import SR_CLASSES, WORK, sent_to, spool_files
from tests.support.tiny_ct import SERIES, stored_values, write_tiny_ct
from tests.support.work_half import CHILD, SR

SHADOW = replace(WORK, weights_sha256="s" * 64, kind="shadow", models="shadow bundle")
NEW = replace(WORK, weights_sha256="n" * 64, models="new bundle")
BROKEN = CHILD.replace("    names =", "    sys.exit(9) if asked['models'] == 'shadow bundle' else None\n    names =")
"""A child that ends where it is given the bundle of the shadow."""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "listener")
    made.make()
    return made


@pytest.fixture
def arrived(sqlite: Database, places: Places, tmp_path: Path) -> list[int]:
    """The instances of a series that is complete, and queued for both bundles."""
    uid, ids = spool_files(sqlite, places, write_tiny_ct(tmp_path / "ct", stored_values(2)))
    with sqlite.begin() as connection:
        emit_to([WORK, SHADOW])(connection, uid, ids)
    return ids


@pytest.fixture
def worker(sqlite: Database, places: Places, request: pytest.FixtureRequest) -> Iterator[Worker]:
    program = ("-c", getattr(request, "param", CHILD), str(SR), SR_CLASSES["comprehensive_3d"], "2.25.7")
    settings = WorkerSettings(attempts=2, backoff=Backoff(0.0, 0.0))
    working = Worker(sqlite, places, settings, lambda source_ae: ["PACS"], program=program)
    yield working
    working._child.end()


def work_all(worker: Worker) -> None:
    while worker.work_one():
        pass


def rows(database: Database, *columns: object) -> list[tuple[object, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(select(*columns).order_by(columns[0]))]


def test_the_shadow_works_after_the_first_and_its_results_stay_in_the_folder(sqlite, places, arrived, worker):
    assert worker.work_one()
    assert rows(sqlite, job.c.id, job.c.kind, job.c.state) == [(1, "main", "done"), (2, "shadow", "waiting")]
    work_all(worker)
    assert rows(sqlite, job.c.id, job.c.state) == [(1, "done"), (2, "done")]
    assert rows(sqlite, delivery.c.job_id, delivery.c.destination) == [(1, "PACS")]
    paths = [str(path) for _, path in rows(sqlite, result.c.job_id, result.c.path)]
    assert len(paths) == 2 and all((places.results / path).is_file() for path in paths)
    assert len(current_results(sqlite, SERIES, WORK)) == len(current_results(sqlite, SERIES, SHADOW)) == 1


@pytest.mark.parametrize("worker", [BROKEN], indirect=True)
def test_a_shadow_that_fails_changes_nothing_of_the_first(sqlite, places, arrived, worker):
    work_all(worker)
    assert rows(sqlite, job.c.id, job.c.state, job.c.reason) == [(1, "done", None), (2, "failed", "WORKER_DIED")]
    sent_to(sqlite, "PACS", judged(0))
    found = audit(sqlite, places)
    assert (found.delivered, found.waiting, found.difference) == (2, 0, 0)


def test_pixels_stay_until_the_shadow_has_had_them(sqlite, places, arrived, worker):
    worker.work_one()
    sent_to(sqlite, "PACS", judged(0))
    with sqlite.begin() as connection:
        connection.execute(series.update().values(state="queued"))
    assert purgeable(sqlite, (), 0.0) == ()
    work_all(worker)
    assert [one.series_uid for one in purgeable(sqlite, (), 0.0)] == [SERIES]


def test_a_backlog_for_a_new_bundle_is_sent_too_and_takes_the_place_of_no_result_of_the_old_one(
    sqlite, places, arrived, worker
):
    work_all(worker)
    sent_to(sqlite, "PACS", judged(0))
    (again,) = replay(sqlite, 0.0, NEW).queued
    assert audit(sqlite, places).waiting == 2
    work_all(worker)
    assert rows(sqlite, delivery.c.job_id, delivery.c.state) == [(1, "sent"), (again, "waiting")]
    assert rows(sqlite, result.c.job_id, result.c.predecessor) == [(1, None), (2, None), (again, None)]
    assert [len(current_results(sqlite, SERIES, one)) for one in (WORK, SHADOW, NEW)] == [1, 1, 1]
    assert replay(sqlite, 0.0, NEW).queued == ()
