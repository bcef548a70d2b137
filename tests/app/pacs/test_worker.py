"""A worker's results are those of `ctvae encode`; what goes wrong with a job, or with its process, is not lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as SATimeout

from app.encode_folder import encode
from app.pacs import worker as worker_module
from app.pacs.database.engine import Database, open_database
from app.pacs.database.tables import delivery, job, job_instance, now, result, series
from app.pacs.places import Places
from app.pacs.queue import enqueue, lease
from app.pacs.work import Work, work_of
from app.pacs.worker import Worker
from app.pacs.worker_settings import ChildLimits, WorkerSettings
from app.settings import load_settings
from tests.support.checkout import ROOT
from tests.support.clocks import Clock
from tests.support.queued import paths_of, queue_series, spool_files, state_of
from tests.support.waiting import PATIENCE_S, until

LIMITS = ChildLimits(time_s=PATIENCE_S)
QUICK = WorkerSettings(lease_s=30, attempts=2, poll_s=0.05)


@pytest.fixture(scope="module")
def work() -> Work:
    return work_of(load_settings())


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, Places, Worker]]:
    """A database, a folder and a worker with its model loaded, for all tests that do real work."""
    places = Places(tmp_path_factory.mktemp("listener"))
    places.make()
    database = open_database(places.database_url)
    worker = Worker(database, places, QUICK, lambda source_ae: ["PACS", "ARCHIVE"])
    yield database, places, worker
    worker.service.stop()
    worker._child.end()
    database.close()


def put(database: Database, places: Places, files: list[Path], work: Work) -> int | None:
    """Spool files and put their series, with all that it has now, into the queue."""
    uid, ids = spool_files(database, places, files)
    with database.begin() as connection:
        return enqueue(connection, uid, ids, work)


def rows(database: Database, *columns: object, **where: object) -> list[tuple[object, ...]]:
    table = columns[0].table  # type: ignore[attr-defined]
    conditions = [table.c[name] == value for name, value in where.items()]
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(select(*columns).where(*conditions).order_by(table.c.id))]  # type: ignore[call-overload]


def started(worker: Worker) -> int:
    """The process id of its child, which runs."""
    worker._child.start(worker.service.check_stop)
    assert worker.child
    return worker.child


def test_the_results_are_those_of_encode_and_a_late_slice_names_its_predecessor(scene, work, phantom_ct, tmp_path):
    database, places, worker = scene
    files = sorted(phantom_ct.iterdir())
    first = put(database, places, files[:-1], work)
    assert worker.work_one() and state_of(database, first) == ("done", None)
    (made, fallback) = rows(database, result.c.path, result.c.sop_uid, result.c.rank, result.c.job_key, job_id=first)
    list(encode(_copied(files[:-1], tmp_path / "in"), output=_folder(tmp_path / "out")))
    (expected,) = (tmp_path / "out").glob("*/features.sr.dcm")
    assert (places.results / str(made[0])).read_bytes() == expected.read_bytes()
    written = (places.results / str(made[0])).with_name("features.json")
    assert written.read_bytes() == expected.with_name("features.json").read_bytes()
    assert f'"config_digest": "{work.config_digest}"' in written.read_text().replace('":"', '": "')

    second = put(database, places, files[-1:], work)
    assert worker.work_one()
    later = rows(database, result.c.path, result.c.predecessor, job_id=second)
    assert [one[1] for one in later] == [made[1], fallback[1]]
    for path, predecessor in later:
        (study,) = dcmread(places.results / str(path)).PredecessorDocumentsSequence
        named = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        assert named.ReferencedSOPInstanceUID == predecessor

    sent = rows(database, delivery.c.destination, delivery.c.state, job_id=second)
    assert sent == [("PACS", "waiting"), ("ARCHIVE", "waiting")]
    with database.read() as connection:
        became = select(job_instance.c.status).where(job_instance.c.job_id == second)
        assert connection.execute(became).scalars().all() == ["written"] * len(files)
    assert not list(places.work.iterdir())


def test_findings_of_the_arrival_stand_in_the_record(scene, work, phantom_ct):
    database, places, worker = scene
    files = sorted(phantom_ct.iterdir())
    uid, ids = spool_files(database, places, files, series_uid="1.2.3.77")
    found = '[{"code": "MISSING_SLICE", "detail": "29 of 30 arrived"}]'
    with database.begin() as connection:
        connection.execute(update(series).where(series.c.series_uid == uid).values(findings=found))
        job_id = enqueue(connection, uid, ids, work)
    assert worker.work_one()
    (path, _) = rows(database, result.c.path, job_id=job_id)
    assert "29 of 30 arrived" in (places.results / str(path[0])).with_name("features.json").read_text()


def test_a_series_that_is_rejected_ends_with_its_reason_and_is_not_tried_again(scene, work, phantom_ct):
    database, places, worker = scene
    files = sorted(phantom_ct.iterdir())
    job_id = put(database, places, _renamed(files[:2], "1.2.3.88", places), work)
    child = started(worker)
    os.kill(child, signal.SIGTERM)  # as a service manager does to all processes: its parent decides
    assert worker.work_one() and state_of(database, job_id) == ("refused", "TOO_FEW_SLICES")
    assert rows(database, result.c.id, job_id=job_id) == [] and worker.child == child


def test_other_weights_than_those_the_job_was_queued_with_are_refused(scene, work, phantom_ct):
    database, places, worker = scene
    files = _renamed(sorted(phantom_ct.iterdir())[:5], "1.2.3.99", places)
    job_id = put(database, places, files, replace(work, weights_sha256="0" * 64))
    assert worker.work_one() and state_of(database, job_id) == ("waiting", "BUNDLE_CHANGED")
    with database.begin() as connection:
        connection.execute(update(job).where(job.c.id == job_id).values(not_before=now()))
    assert worker.work_one() and state_of(database, job_id) == ("failed", "BUNDLE_CHANGED")


def test_a_child_that_was_killed_between_two_jobs_is_replaced(scene, work, phantom_ct):
    database, places, worker = scene
    os.kill(started(worker), signal.SIGKILL)
    job_id = put(database, places, _renamed(sorted(phantom_ct.iterdir()), "1.2.3.66", places), work)
    assert worker.work_one() and state_of(database, job_id) == ("done", None)


CHILD = """
import json, os, signal, sys, time
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    ACT
    print(json.dumps({"output": json.loads(line)["output"], "outcomes": [], "made": []}), flush=True)
"""


@pytest.mark.parametrize(
    ("act", "limits", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", ChildLimits(), "WORKER_DIED"),
        ("sys.exit(7)", ChildLimits(), "WORKER_DIED"),
        ("time.sleep(600)", ChildLimits(time_s=0.1), "WORKER_TIME"),
        ("kept = b'x' * 90_000_000; time.sleep(600)", ChildLimits(memory_mb=80), "WORKER_MEMORY"),
        ("print('no JSON', flush=True)", ChildLimits(), "WORKER_DIED"),
        ("""print('{"output": "of another job"}', flush=True)""", ChildLimits(), "WORKER_DIED"),
    ],
)
def test_a_child_that_ends_or_passes_a_limit_costs_an_attempt_and_the_last_one_ends_the_job(
    sqlite, tmp_path, act, limits, reason
):
    job_id = queue_series(sqlite, "1.2.3", [1])
    worker = made_up(sqlite, tmp_path, act, limits)
    try:
        assert worker.work_one() and state_of(sqlite, job_id) == ("waiting", reason)
        with sqlite.begin() as connection:
            connection.execute(update(job).values(not_before=now()))
        assert worker.work_one() and state_of(sqlite, job_id) == ("failed", reason)
        assert list(worker._places.results.iterdir()) == list(worker._places.work.iterdir()) == []
    finally:
        worker._child.end()


LOADING = """
import json, sys, time
from pathlib import Path
while not Path("MODEL").exists():
    time.sleep(0.02)
print(Path("MODEL").read_text(), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("said", "ready"), [('{"ready": true}', True), ('{"error": {"reason": "BUNDLE_INVALID", "message": ""}}', False)]
)
def test_a_worker_is_ready_once_its_child_has_loaded_the_model(sqlite, tmp_path, said, ready):
    model = tmp_path / "model"
    program = ("-c", LOADING.replace("MODEL", str(model)))
    worker = Worker(sqlite, Places(tmp_path), QUICK, lambda source_ae: [], program=program)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        until(lambda: worker.child)
        assert not worker.ready
        (tmp_path / "unfinished").write_text(said)
        (tmp_path / "unfinished").rename(model)
        until(lambda: worker.ready if ready else worker.child is None)
        assert worker.ready is ready
    finally:
        worker.service.stop()
        thread.join(PATIENCE_S)


def made_up(database: Database, folder: Path, act: str, limits: ChildLimits | None = None) -> Worker:
    """A worker whose child does as the test says."""
    places = Places(folder / "listener")
    places.make()
    for path in paths_of(database):
        (places.spool / path).parent.mkdir(parents=True, exist_ok=True)
        (places.spool / path).write_bytes(b"a slice")
    program = ("-c", CHILD.replace("ACT", act))
    return Worker(
        database, places, replace(QUICK, limits=limits or ChildLimits()), lambda source_ae: [], program=program
    )


def test_a_worker_that_is_stopped_puts_its_job_back_at_once(sqlite, tmp_path):
    job_id = queue_series(sqlite, "1.2.3", [1])
    worker = made_up(sqlite, tmp_path, "time.sleep(600)")
    thread = threading.Thread(target=worker.run)
    thread.start()
    until(lambda: state_of(sqlite, job_id)[0] == "leased")
    worker.service.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive() and state_of(sqlite, job_id) == ("waiting", None)
    assert worker.child is None


def test_a_lease_is_prolonged_for_as_long_as_the_child_works(sqlite, tmp_path, monkeypatch):
    job_id, enough = queue_series(sqlite, "1.2.3", [1]), tmp_path / "enough"
    worker = made_up(sqlite, tmp_path, f"while not os.path.exists({str(enough)!r}): time.sleep(0.01)", LIMITS)
    monkeypatch.setattr("app.pacs.child_process.TICK_S", 0.01)
    monkeypatch.setattr("app.pacs.worker.time", Clock(step_s=QUICK.lease_s / 10))  # at each look whether it is time
    prolong, prolonged = worker_module.heartbeat, []

    def heartbeat(database, held, lease_s):
        with sqlite.begin() as connection:
            connection.execute(update(job).values(lease_until=now() - 1))
        prolonged.append(prolong(database, held, lease_s))
        assert lease(database, "other", 60) is None
        if len(prolonged) == 3:
            enough.touch()
        return prolonged[-1]

    monkeypatch.setattr(worker_module, "heartbeat", heartbeat)
    try:
        assert worker.work_one() and state_of(sqlite, job_id) == ("refused", "NO_CT")
        assert all(prolonged[:3])
    finally:
        worker._child.end()


def test_a_worker_outlives_a_database_that_is_away(sqlite, tmp_path, monkeypatch):
    job_id = queue_series(sqlite, "1.2.3", [1])
    worker = made_up(sqlite, tmp_path, "pass")
    monkeypatch.setattr("app.pacs.service.PAUSE_S", 0.0)
    failures = iter([OperationalError("SELECT 1", {}, OSError()), OSError("disk"), SATimeout("pool")])

    def away(*arguments: object) -> None:
        for failure in failures:
            raise failure

    monkeypatch.setattr("app.pacs.worker.sweep", away)
    thread = threading.Thread(target=worker.run)
    thread.start()
    until(lambda: state_of(sqlite, job_id)[0] == "refused")
    worker.service.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive() and list(failures) == []


def test_a_result_that_cannot_be_entered_costs_its_job_an_attempt_and_no_other(sqlite, tmp_path, monkeypatch):
    first, second = queue_series(sqlite, "1.2.3", [1]), queue_series(sqlite, "1.2.4", [1])
    worker = made_up(sqlite, tmp_path, "pass")
    entered = worker_module.finish

    def finish(database, held, ended, destinations):
        if held.job_id == first and ended.state != "failed":
            raise IntegrityError("INSERT", {}, OSError())
        entered(database, held, ended, destinations)

    monkeypatch.setattr(worker_module, "finish", finish)
    try:
        assert worker.work_one() and state_of(sqlite, first) == ("waiting", "INTERNAL_ERROR")
        assert worker.work_one() and state_of(sqlite, second) == ("refused", "NO_CT")
        with sqlite.begin() as connection:
            connection.execute(update(job).values(not_before=now()))
        assert worker.work_one() and state_of(sqlite, first) == ("failed", "INTERNAL_ERROR")
        assert list(worker._places.results.iterdir()) == []
    finally:
        worker._child.end()


PARENT = """
import sys, threading
from pathlib import Path
from app.pacs.child_process import ChildProcess
from app.pacs.worker_settings import ChildLimits
child = ChildProcess(ChildLimits())
child.start(lambda: None)
print(child.pid, flush=True)
threading.Event().wait()
"""


def test_a_child_ends_with_its_parent_however_that_ends():
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())  # type: ignore[union-attr]
        parent.kill()
    until(lambda: not running(pid))


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_what_a_killed_worker_left_is_swept_and_what_was_entered_stays(sqlite, tmp_path):
    from app.pacs.queue import finish
    from app.pacs.worker import sweep
    from tests.support.queued import made, written

    places = Places(tmp_path / "listener")
    places.make()
    queue_series(sqlite, "1.1")
    one = lease(sqlite, "w", 60)
    assert one
    finish(sqlite, one, written(sqlite, one.job_id, replace(made("2.1"), path=f"{one.job_id}-1/1.1/features.sr.dcm")))
    queue_series(sqlite, "1.2")
    two = lease(sqlite, "w", 60)
    assert two
    for folder in (places.work, places.results):
        for name in (f"{one.job_id}-1", f"{two.job_id}-1", f"{two.job_id}-0", "other", f"{10**30}-1"):
            (folder / name).mkdir()
    sweep(sqlite, places)
    assert sorted(path.name for path in places.results.iterdir()) == [
        *(f"{one.job_id}-1", f"{10**30}-1", f"{two.job_id}-1"),
        "other",
    ]


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _copied(files: list[Path], to: Path) -> Path:
    _folder(to)
    for file in files:
        (to / file.name).write_bytes(file.read_bytes())
    return to


def _renamed(files: list[Path], series_uid: str, places: Places) -> list[Path]:
    """The same slices as another series."""
    folder = _folder(places.folder / series_uid)
    for number, file in enumerate(files, 1):
        dataset = dcmread(file)
        dataset.SeriesInstanceUID = series_uid
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{series_uid}.{number}"
        dataset.save_as(folder / file.name)
    return sorted(folder.iterdir())
