"""A job is worked by one worker at a time, is never lost, and ends once; on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import insert, select, update

from app.pacs import deliveries
from app.pacs.backoff import Backoff
from app.pacs.database.engine import Database, open_database
from app.pacs.database.tables import delivery, instance, job, now, result
from app.pacs.jobs import Ended, Lease, LostLease
from app.pacs.places import Places
from app.pacs.queue import (
    LOST_LEASES,
    REPLAY,
    current_results,
    end_leases,
    enqueue,
    fail,
    finish,
    heartbeat,
    lease,
    listed,
    put_back,
)
from app.pacs.work import Arrived, key_of
from tests.support.checkout import ROOT
from tests.support.queued import WORK, arrive, made, make_results, queue_series, state_of, written
from tests.support.waiting import until

BROKEN = Ended("failed", "OUT_OF_MEMORY", "not enough memory")
AT_ONCE = Backoff(first_s=0.0)


def expire(database: Database, job_id: int | None) -> None:
    with database.begin() as connection:
        connection.execute(update(job).where(job.c.id == job_id).values(lease_until=now() - 1))


def test_a_listener_that_is_alone_takes_up_at_once_what_a_dead_one_held(database, tmp_path):
    make_results(database, Places(tmp_path), "1.1", ["PACS"])
    job_id = queue_series(database, "1.2")
    held, sending = lease(database, "dead", 3600), deliveries.take(database, "PACS", 3600)
    assert held and sending and lease(database, "next", 60) is None and deliveries.take(database, "PACS", 60) is None
    end_leases(database)
    again, sent_again = lease(database, "next", 60), deliveries.take(database, "PACS", 60)
    assert again and (again.job_id, again.token) == (job_id, held.token + 1)
    assert sent_again and sent_again.token == sending.token + 1


def test_the_same_series_with_the_same_instances_is_one_job(database):
    first = queue_series(database, "1.2.3", [1, 2])
    assert first is not None
    assert queue_series(database, "1.2.3", []) is None
    assert [one.path for one in listed(database, first)] == [f"instances/1.2.3/1.2.3.{n}.dcm" for n in (1, 2)]


def test_a_series_of_more_slices_than_sqlite_takes_variables_is_queued(sqlite):
    ids = arrive(sqlite, "1.1", [1])
    many = 33_000
    with sqlite.begin() as connection:
        row = dict(connection.execute(select(instance)).mappings().one()) | {"copy": 0}
        rows = [{**row, "id": n, "sop_uid": f"9.{n}", "path": f"{n}"} for n in range(100, 100 + many)]
        connection.execute(insert(instance), rows)
        job_id = enqueue(connection, "1.1", [*ids, *range(100, 100 + many)], WORK)
    assert len(listed(sqlite, job_id or 0)) == many + 1


def test_a_later_version_or_another_model_is_another_job(sqlite):
    jobs = [queue_series(sqlite, "1.2.3", [1])]
    others = (replace(WORK, version="9.9"), replace(WORK, weights_sha256="x" * 64), replace(WORK, kind="shadow"))
    jobs += [queue_series(sqlite, "1.2.3", [], work) for work in others]
    assert len(set(jobs)) == 4 and None not in jobs


def test_other_bytes_under_a_uid_are_part_of_the_key_and_the_first_ones_are_not():
    first, again = Arrived("1.1", 0, "bytes"), Arrived("1.1", 1, "other bytes")
    assert key_of("1", [first], WORK) == key_of("1", [replace(first, bytes_digest="transcoded")], WORK)
    assert key_of("1", [again], WORK) not in (
        key_of("1", [first], WORK),
        key_of("1", [replace(again, bytes_digest="third")], WORK),
    )
    two = [first, Arrived("1.2", 0, "b")]
    assert key_of("1", two, WORK) == key_of("1", reversed(two), WORK)


def test_the_highest_priority_goes_first_then_the_oldest(database):
    low = queue_series(database, "1.1", priority=REPLAY)
    first, second = queue_series(database, "1.2"), queue_series(database, "1.3")
    taken = [lease(database, "w", 60) for _ in range(4)]
    assert [one and one.job_id for one in taken] == [first, second, low, None]


def test_a_lease_that_nobody_prolongs_is_taken_over_and_the_slow_worker_is_fenced_off(database):
    job_id = queue_series(database, "1.1")
    slow = lease(database, "slow", 60)
    assert slow and lease(database, "other", 60) is None
    expire(database, job_id)
    other = lease(database, "other", 60)
    assert other and (other.job_id, other.token) == (job_id, slow.token + 1)
    assert not heartbeat(database, slow, 60)
    with pytest.raises(LostLease):
        finish(database, slow, written(database, slow.job_id, made("2.1")), ["PACS"])
    with pytest.raises(LostLease):
        fail(database, slow, BROKEN, AT_ONCE, most=3)
    put_back(database, slow)
    assert heartbeat(database, other, 60)
    finish(database, other, written(database, other.job_id, made("2.2")), ["PACS"])
    with database.read() as connection:
        assert connection.execute(select(result.c.sop_uid)).scalars().all() == ["2.2"]
        assert len(connection.execute(select(delivery.c.id)).all()) == 1


def test_a_heartbeat_keeps_a_lease(database):
    queue_series(database, "1.1")
    held = lease(database, "w", 0.0)
    assert held and heartbeat(database, held, 60)
    assert lease(database, "other", 60) is None


def test_a_job_that_fails_waits_and_after_the_last_attempt_ends_failed_with_its_reason(database):
    job_id, other = queue_series(database, "1.1"), queue_series(database, "1.2")
    one = lease(database, "w", 60)
    assert one and fail(database, one, BROKEN, Backoff(first_s=3600), most=2)
    assert state_of(database, job_id) == ("waiting", "OUT_OF_MEMORY")
    taken = lease(database, "w", 60)
    assert taken and taken.job_id == other  # the one that failed blocks nobody
    with database.begin() as connection:
        connection.execute(update(job).where(job.c.id == job_id).values(not_before=now()))
    again = lease(database, "w", 60)
    assert again and again.attempts == 1
    assert not fail(database, again, BROKEN, AT_ONCE, most=2)
    finish(database, again, BROKEN)
    assert state_of(database, job_id) == ("failed", "OUT_OF_MEMORY")


def test_a_job_that_takes_its_worker_down_each_time_without_a_word_ends_failed(sqlite):
    job_id = queue_series(sqlite, "1.1")
    for _ in range(LOST_LEASES):
        assert lease(sqlite, "w", 60)
        expire(sqlite, job_id)
    assert lease(sqlite, "w", 60) is None
    assert state_of(sqlite, job_id) == ("failed", "WORKER_LOST")


def test_a_job_that_is_put_back_has_lost_no_attempt(sqlite):
    queue_series(sqlite, "1.1")
    one = lease(sqlite, "w", 60)
    assert one
    put_back(sqlite, one)
    again = lease(sqlite, "w", 60)
    assert again and (again.job_id, again.attempts) == (one.job_id, 0)


def test_late_slices_supersede_a_job_that_nobody_began(database):
    first = queue_series(database, "1.1", [1])
    second = queue_series(database, "1.1", [2])
    assert state_of(database, first) == ("superseded", "REVISED")
    taken = lease(database, "w", 60)
    assert taken and (taken.job_id, taken.revision) == (second, 2)
    assert len(listed(database, taken.job_id)) == 2


def test_the_next_revision_waits_for_the_one_in_work_and_then_knows_its_result(database):
    first = queue_series(database, "1.1", [1])
    one = lease(database, "w", 60)
    second = queue_series(database, "1.1", [2])
    assert one and one.job_id == first and lease(database, "other", 60) is None
    finish(database, one, written(database, one.job_id, made("2.1")))
    two = lease(database, "other", 60)
    assert two and two.job_id == second
    assert [now_.sop_uid for now_ in current_results(database, "1.1", WORK)] == ["2.1"]
    finish(database, two, written(database, two.job_id, made("2.2", predecessor="2.1")))
    assert [now_.sop_uid for now_ in current_results(database, "1.1", WORK)] == ["2.2"]


def test_a_revision_in_work_that_fails_gives_way_to_the_next_one(database):
    first = queue_series(database, "1.1", [1])
    one = lease(database, "w", 60)
    second = queue_series(database, "1.1", [2])
    assert one and fail(database, one, BROKEN, Backoff(first_s=3600), most=5)
    assert state_of(database, first)[0] == "superseded"
    taken = lease(database, "w", 60)
    assert taken and taken.job_id == second


def test_shadow_and_main_do_not_wait_for_each_other(sqlite):
    main = queue_series(sqlite, "1.1", [1])
    shadow = queue_series(sqlite, "1.1", [], replace(WORK, kind="shadow"))
    taken = {one.job_id for one in (lease(sqlite, "a", 60), lease(sqlite, "b", 60)) if one}
    assert taken == {main, shadow}


def test_an_error_in_the_transaction_of_a_hand_over_leaves_no_job(database):
    ids = arrive(database, "1.1", [1])
    with pytest.raises(ZeroDivisionError), database.begin() as connection:
        assert enqueue(connection, "1.1", ids, WORK)
        raise ZeroDivisionError
    assert lease(database, "w", 60) is None


def test_four_workers_take_each_job_once(database):
    jobs = {queue_series(database, f"1.{n}") for n in range(24)}
    taken, lock = Counter[int](), threading.Lock()

    def work(name: str) -> None:
        while one := lease(database, name, 60):
            with lock:
                taken[one.job_id] += 1
            finish(database, one, written(database, one.job_id, made(f"2.{one.job_id}")), ["PACS"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))
    assert taken == Counter(jobs)
    with database.read() as connection:
        assert connection.execute(select(job.c.state).distinct()).scalars().all() == ["done"]
        assert len(connection.execute(select(delivery.c.id)).all()) == 24


WORKER = """
import sys
from app.pacs.database.engine import open_database
from app.pacs.queue import finish, lease
from tests.support.queued import made, written
database = open_database(sys.argv[1])
one = lease(database, "killed", 60)
finish(database, one, written(database, one.job_id, made("2.1")), ["PACS"])
"""


def run_worker(url: str, kill_at: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"CTVAE_KILL_AT": kill_at}
    return subprocess.run([sys.executable, "-c", WORKER, url], cwd=ROOT, env=environment)


@pytest.mark.parametrize(
    ("database_url", "moment", "left"),
    [("sqlite", "queue.lease.before", 1), ("sqlite", "queue.lease.after", 2), ("postgresql", "queue.finish.before", 2)],
    indirect=["database_url"],
)
def test_a_worker_killed_before_its_commit_changed_nothing_and_another_takes_over(database_url, moment, left):
    database = open_database(database_url)
    job_id = queue_series(database, "1.1")
    killed, found = run_worker(database_url, moment), list[Lease | None]()
    assert killed.returncode == -signal.SIGKILL
    expire(database, job_id)
    until(lambda: found.append(lease(database, "other", 60)) or found[-1])  # PostgreSQL has to see that it is gone
    one = found[-1]
    assert one and one.token == left
    finish(database, one, written(database, one.job_id, made("2.1")), ["PACS"])
    with database.read() as connection:
        assert connection.execute(select(result.c.sop_uid)).scalars().all() == ["2.1"]
    database.close()


def test_a_worker_killed_after_its_commit_has_finished(sqlite, tmp_path):
    job_id = queue_series(sqlite, "1.1")
    url = f"sqlite:///{tmp_path}/queue.db"
    killed = run_worker(url, "queue.finish.after")
    assert killed.returncode == -signal.SIGKILL
    assert state_of(sqlite, job_id) == ("done", None)


@pytest.mark.parametrize(("attempts", "low", "high"), [(1, 2.5, 5), (3, 10, 20), (50, 30, 60)])
def test_pauses_double_up_to_the_longest_with_jitter(attempts, low, high):
    backoff = Backoff(first_s=5, longest_s=60)
    assert backoff.pause_s(attempts, lambda least, most: least) == low
    assert backoff.pause_s(attempts, lambda least, most: most) == high
