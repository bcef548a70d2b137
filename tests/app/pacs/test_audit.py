"""Each acknowledged instance is delivered, waits, or ended with a reason; what is none of these is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.pacs.audit import Audit, audit
from app.pacs.backoff import Backoff
from app.pacs.database.engine import Database
from app.pacs.database.tables import delivery, instance, job, now, series
from app.pacs.destination import Destination
from app.pacs.jobs import Became, Ended, LostLease
from app.pacs.judge import judged
from app.pacs.look import retry
from app.pacs.places import Places
from app.pacs.purge import purge, purgeable
from app.pacs.queue import fail, finish, lease, listed
from app.pacs.replay import replay
from app.pacs.work import Work
from tests.support.queued import WORK, arrive, made, make_results, paths_of, queue_series, sent_to, state_of

OTHER = Work("o" * 64, "c" * 64)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "listener")
    made.make()
    return made


def audited(database: Database, places: Places) -> Audit:
    """The audit, when the spool has a file for each row that says so."""
    for path in paths_of(database):
        (places.spool / path).parent.mkdir(parents=True, exist_ok=True)
        (places.spool / path).write_bytes(b"1")
    return audit(database, places)


def sums(found: Audit) -> tuple[int, int, int, dict[str, int], int]:
    return found.acknowledged, found.delivered, found.waiting, dict(found.ended), found.difference


def test_an_instance_is_followed_from_its_arrival_to_its_last_destination(database, places):
    arrive(database, "1.1", [1, 2])
    assert sums(audited(database, places)) == (2, 0, 2, {}, 0)  # for more of its series
    queue_series(database, "1.2", [1, 2, 3])
    assert sums(audited(database, places)) == (5, 0, 5, {}, 0)  # for the worker
    one = lease(database, "w", 60)
    assert one and sums(audited(database, places)) == (5, 0, 5, {}, 0)  # in work
    finish(database, one, Ended("refused", "TOO_FEW_SLICES", "3", became=became(database, one.job_id, "rejected")))
    assert sums(audited(database, places)) == (5, 0, 2, {"TOO_FEW_SLICES": 3}, 0)
    make_results(database, places, "1.3", ["PACS", "ARCHIVE"])
    assert sums(audited(database, places)) == (7, 0, 4, {"TOO_FEW_SLICES": 3}, 0)  # to be sent
    sent_to(database, "PACS", judged(0))
    assert audited(database, places).delivered == 0  # to the other one
    sent_to(database, "ARCHIVE", judged(0xA900))
    ended = {"TOO_FEW_SLICES": 3, "REFUSED_BY_PEER by ARCHIVE": 2}
    assert sums(audited(database, places)) == (7, 0, 2, ended, 0)
    assert retry(database, None) == (0, 1)
    sent_to(database, "ARCHIVE", judged(0))
    assert sums(audited(database, places)) == (7, 2, 2, {"TOO_FEW_SLICES": 3}, 0)


def became(database: Database, job_id: int, status: str) -> tuple[Became, ...]:
    return tuple(Became(one.instance_id, None, status, "TOO_FEW_SLICES") for one in listed(database, job_id))


def test_other_content_under_a_uid_is_not_lost(sqlite, places):
    make_results(sqlite, places, "1.1", [])
    arrive(sqlite, "1.1", [1], copy=1)
    with sqlite.begin() as connection:
        values = {"state": "aside", "reason": "OTHER_CONTENT"}
        connection.execute(update(instance).where(instance.c.copy == 1).values(values))
    assert sums(audited(sqlite, places)) == (3, 2, 0, {"OTHER_CONTENT": 1}, 0)


def test_a_revision_that_was_superseded_counts_in_the_one_that_holds_it(sqlite, places):
    queue_series(sqlite, "1.1", [1])
    queue_series(sqlite, "1.1", [2])
    assert sums(audited(sqlite, places)) == (2, 0, 2, {}, 0)


def test_what_was_handed_over_without_a_job_is_lost_and_named(sqlite, places):
    arrive(sqlite, "1.1", [1])
    with sqlite.begin() as connection:
        connection.execute(update(series).values(state="queued"))
    found = audited(sqlite, places)
    assert found.difference == 1
    assert found.lost == ("1.1.1 of series 1.1: its series was handed over without it",)


def test_an_instance_that_its_job_never_mentions_is_lost(sqlite, places):
    job_id = queue_series(sqlite, "1.1", [1])
    one = lease(sqlite, "w", 60)
    assert one
    finish(sqlite, one, Ended("done"))
    assert audited(sqlite, places).lost == (f"1.1.1 of series 1.1: job {job_id} ended without a word about it",)


def test_a_file_or_a_result_that_is_gone_is_lost_and_a_file_without_a_row_is_named(sqlite, places):
    arrive(sqlite, "1.1", [1])
    make_results(sqlite, places, "1.2", [])
    audited(sqlite, places)
    (places.spool / "instances" / "1.1" / "1.1.1.dcm").write_bytes(b"")
    (places.spool / "instances" / "1.2" / "1.2.9.dcm").write_bytes(b"1")
    (gone, _) = sorted(places.results.glob("*/*/*.dcm"))
    gone.unlink()
    found = audit(sqlite, places)
    assert found.difference == 2 and found.unknown_files == ("instances/1.2/1.2.9.dcm",)
    assert "its file is gone" in found.lost[0] and str(gone.relative_to(places.results)) in found.lost[1]


def test_a_failed_job_is_worked_again_and_one_that_was_revised_is_not(sqlite, places):
    first = queue_series(sqlite, "1.1", [1])
    one = lease(sqlite, "w", 60)
    assert one
    finish(sqlite, one, Ended("failed", "OUT_OF_MEMORY", "not enough memory"))
    assert sums(audited(sqlite, places)) == (1, 0, 0, {"OUT_OF_MEMORY": 1}, 0)
    assert retry(sqlite, [first or 0]) == (1, 0) and state_of(sqlite, first)[0] == "waiting"
    again = lease(sqlite, "w", 60)
    assert again
    finish(sqlite, again, Ended("failed", "OUT_OF_MEMORY", "not enough memory"))
    queue_series(sqlite, "1.1", [2])
    assert retry(sqlite, None) == (0, 0)


def test_a_part_that_was_written_counts_though_another_part_failed(sqlite, places):
    job_id = queue_series(sqlite, "1.1", [1, 2])
    one = lease(sqlite, "w", 60)
    assert one and job_id
    first, second = listed(sqlite, job_id)
    parts = (Became(first.instance_id, 1, "written", None), Became(second.instance_id, 2, "failed", "OUT_OF_MEMORY"))
    finish(sqlite, one, Ended("failed", "OUT_OF_MEMORY", "m", (made("2.1", part=1),), parts), ["PACS"])
    assert sums(audited(sqlite, places)) == (2, 0, 1, {"OUT_OF_MEMORY": 1}, 1)  # made-up result without a file
    sent_to(sqlite, "PACS", judged(0))
    assert audited(sqlite, places).delivered == 1


def test_a_worker_that_was_slow_stays_fenced_off_when_its_job_is_retried(sqlite):
    queue_series(sqlite, "1.1", [1])
    slow = lease(sqlite, "slow", 60)
    assert slow
    finish(sqlite, slow, Ended("failed", "WORKER_TIME", "too slow"))
    assert retry(sqlite, None) == (1, 0)
    again = lease(sqlite, "w", 60)
    assert again and again.token > slow.token
    with pytest.raises(LostLease):
        finish(sqlite, slow, Ended("done"))


def test_a_backlog_is_worked_again_with_another_bundle_once_and_behind_what_is_new(database, places):
    for number in (1, 2):
        make_results(database, places, f"1.{number}", [], sop_uid=f"2.25.{number}")
    with database.begin() as connection:
        connection.execute(update(job).where(job.c.series_uid == "1.1").values(created_at=now() - 100_000))
    assert replay(database, 0.0, WORK).known == 2
    again = replay(database, _now(database) - 50_000, OTHER)
    assert (len(again.queued), again.known, again.purged) == (1, 0, 0)
    new = queue_series(database, "1.9")
    taken = [one.job_id for one in (lease(database, "w", 60), lease(database, "w", 60)) if one]
    assert taken == [new, again.queued[0]]
    assert len(listed(database, again.queued[0])) == 2


def _now(database: Database) -> float:
    with database.read() as connection:
        return float(connection.execute(select(now())).scalar_one())


CONFIRMING = (Destination("PACS", ae_title="PACS", commitment=True), Destination("ARCHIVE", ae_title="ARCHIVE"))


def test_pixels_go_when_each_destination_has_the_result_and_the_time_has_passed(database, places):
    make_results(database, places, "1.1", ["PACS", "ARCHIVE"])
    audited(database, places)
    assert purgeable(database, CONFIRMING, 0.0) == ()
    sent_to(database, "PACS", judged(0))
    sent_to(database, "ARCHIVE", judged(0))
    assert purgeable(database, CONFIRMING, 0.0) == ()  # PACS has not confirmed it
    with database.begin() as connection:
        confirmed = {"state": "confirmed", "confirmed_at": now()}
        connection.execute(update(delivery).where(delivery.c.destination == "PACS").values(confirmed))
    assert purgeable(database, CONFIRMING, 1.0) == ()
    (found,) = purgeable(database, CONFIRMING, 0.0)
    assert (found.series_uid, found.instances, found.size_bytes) == ("1.1", 2, 2)
    assert purge(database, places, ("1.1",)).instances == 2
    assert not list(places.spool.rglob("*.dcm")) and purgeable(database, CONFIRMING, 0.0) == ()
    assert sums(audit(database, places)) == (2, 2, 0, {}, 0)
    assert replay(database, 0.0, OTHER).purged == 1


def test_a_series_that_cannot_be_purged_is_named_and_the_next_one_goes(sqlite, places):
    make_results(sqlite, places, "1.1", [])
    make_results(sqlite, places, "1.2", [], sop_uid="2.25.2")
    audited(sqlite, places)
    file = places.spool / "instances" / "1.1" / "1.1.1.dcm"
    file.unlink()
    file.mkdir()  # nothing that can be unlinked, whoever we are
    purged = purge(sqlite, places, ("1.1", "1.2"))
    assert purged.instances == 2 and list(purged.failed) == ["1.1"]
    assert purged.failed["1.1"].startswith("INPUT_OUTPUT_ERROR: ")
    assert [one.series_uid for one in purgeable(sqlite, (), 0.0)] == ["1.1"]


def test_a_series_that_cannot_be_queued_again_is_named_and_the_next_one_is(sqlite, places):
    make_results(sqlite, places, "1.1", [])
    make_results(sqlite, places, "1.2", [], sop_uid="2.25.2")
    with sqlite.begin() as connection:
        connection.execute(series.delete().where(series.c.series_uid == "1.1"))
    again = replay(sqlite, 0.0, OTHER)
    assert len(again.queued) == 1 and again.failed == {"1.1": "NoResultFound"}


def test_nothing_is_purged_of_a_series_that_still_arrives_waits_or_failed(sqlite, places):
    arrive(sqlite, "1.1", [1])
    queue_series(sqlite, "1.2", [1])
    one = lease(sqlite, "w", 60)
    assert one and not fail(sqlite, one, Ended("failed", "X", "x"), Backoff(), most=1)
    finish(sqlite, one, Ended("failed", "OUT_OF_MEMORY", "not enough memory"))
    make_results(sqlite, places, "1.3", [])
    arrive(sqlite, "1.3", [7])
    with sqlite.begin() as connection:
        connection.execute(update(series).where(series.c.series_uid == "1.3").values(state="arriving"))
    make_results(sqlite, places, "1.4", [])
    queue_series(sqlite, "1.4", [7])
    queue_series(sqlite, "1.5", [1])
    two = [lease(sqlite, "w", 60) for _ in range(2)][-1]
    assert two and two.series_uid == "1.5"
    finish(sqlite, two, Ended("refused", "NOT_CT_IMAGE", "not CT", became=became(sqlite, two.job_id, "skipped")))
    assert purgeable(sqlite, (), 0.0) == ()
    assert [one.series_uid for one in purgeable(sqlite, (), 0.0, refused=True)] == ["1.5"]
