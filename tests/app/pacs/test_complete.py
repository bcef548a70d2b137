"""When a series is complete: quiet time, the PACS's count, what is fetched, the hard cap, and late slices."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from app.pacs.arrivals import Identity, Origin, record
from app.pacs.complete import Completer
from app.pacs.database.engine import open_database
from app.pacs.database.tables import instance, series
from app.pacs.fetch import PacsAway, PacsRefused
from app.pacs.look import look_again
from app.pacs.settings import ListenerSettings, Query
from app.pacs.spool import Kept
from tests.support.waiting import PATIENCE_S

SERIES = "1.2.3"
SETTINGS = ListenerSettings(quiet_s=0, query=Query(retry_s=0))


class FakePacs:
    """A PACS with instances 1 to `holds`, of which it gives what `gives` says."""

    def __init__(self, here, holds, gives=None, away=False):
        self.here, self.holds, self.away, self.fetched = here, holds, away, []
        self.gives = range(1, holds + 1) if gives is None else gives

    def count(self, study_uid, series_uid):
        if self.away:
            raise PacsAway("no association")
        return self.holds

    def instances(self, study_uid, series_uid):
        return frozenset(f"{SERIES}.{number}" for number in range(1, self.holds + 1))

    def fetch(self, study_uid, series_uid, sop_uids):
        self.fetched.append(list(sop_uids))
        for uid in sop_uids:
            number = int(uid.rpartition(".")[2])
            if number in self.gives:
                self.here.arrive(number, fetched=True)


class Here:
    """A database with one series, and what went into the queue."""

    def __init__(self, folder):
        self.database, self.queued = open_database(f"sqlite:///{folder}/queue.db"), []

    def arrive(self, number, *, copy=0, fetched=False, series_uid=SERIES):
        uid = f"{series_uid}.{number}"
        kept = Kept(f"instances/{series_uid}/{uid}.copy{copy}.dcm", series_uid, uid, copy)
        origin = Origin("PACS" if fetched else "CT1", "127.0.0.1", fetched)
        assert record(self.database, kept, Identity("1.2", series_uid, uid, "1.2.840"), f"{number} {copy}", 1, origin)

    def completer(self, pacs=None, settings=SETTINGS):
        def emit(connection, series_uid, instances):
            uids = select(instance.c.sop_uid).where(instance.c.id.in_(instances))
            self.queued.append(sorted(connection.execute(uids).scalars()))

        return Completer(self.database, settings, emit, pacs)

    @property
    def row(self):
        with self.database.read() as connection:
            return connection.execute(select(series).where(series.c.series_uid == SERIES)).one()

    def findings(self):
        return [one["code"] for one in json.loads(self.row.findings)]


@pytest.fixture
def here(tmp_path):
    made = Here(tmp_path)
    for number in (1, 2, 3):
        made.arrive(number)
    yield made
    made.database.close()


def uids(*numbers):
    return [f"{SERIES}.{number}" for number in numbers]


def test_a_series_waits_for_the_quiet_time_and_then_goes_into_the_queue_once(here):
    assert here.completer(settings=replace(SETTINGS, quiet_s=3600)).step() == 0
    completer = here.completer()
    assert [completer.step(), completer.step()] == [1, 0]
    assert here.queued == [uids(1, 2, 3)]
    assert (here.row.state, here.row.revision) == ("queued", 1)


def test_a_late_slice_makes_another_revision_over_all_slices(here):
    completer = here.completer()
    completer.step()
    here.arrive(4)
    assert here.row.state == "arriving"
    completer.step()
    assert here.queued == [uids(1, 2, 3), uids(1, 2, 3, 4)] and here.row.revision == 2


def test_other_content_under_a_known_uid_makes_no_revision_and_stays_a_finding(here):
    completer = here.completer()
    completer.step()
    here.arrive(1, copy=1)
    assert completer.step() == 0
    here.arrive(4)
    completer.step()
    assert here.queued[-1] == uids(1, 2, 3, 4) and here.findings() == ["OTHER_CONTENT"]


def test_what_the_pacs_has_more_is_fetched_and_does_not_count_as_another_sender(here):
    pacs = FakePacs(here, holds=5)
    assert here.completer(pacs).step() == 1
    assert pacs.fetched == [uids(4, 5)] and here.queued == [uids(1, 2, 3, 4, 5)]
    assert (here.row.source_ae, here.row.expected, here.findings()) == ("CT1", 5, [])


def test_a_pacs_that_has_fewer_or_does_not_know_the_series_does_not_hold_it_up(here):
    assert here.completer(FakePacs(here, holds=2)).step() == 1
    here.arrive(4)
    assert here.completer(FakePacs(here, holds=0)).step() == 1


def test_what_cannot_be_fetched_is_asked_for_again_and_the_reason_is_kept(here):
    pacs = FakePacs(here, holds=4, gives=())
    completer = here.completer(pacs)
    assert [completer.step(), completer.step()] == [0, 0]
    assert (here.row.attempts, here.row.reason) == (2, "3 of 4 instances are here") and len(pacs.fetched) == 2
    pacs.gives = (4,)
    assert completer.step() == 1


def test_the_pauses_between_attempts_grow(here):
    completer = here.completer(FakePacs(here, holds=4, gives=()), replace(SETTINGS, query=Query(retry_s=1000)))
    completer.step()
    assert completer.step() == 0 and here.row.attempts == 1
    assert 500 <= here.row.not_before - here.row.last_at <= 1000 + PATIENCE_S


def test_retrieve_none_waits_for_the_sender(here):
    pacs = FakePacs(here, holds=4)
    completer = here.completer(pacs, replace(SETTINGS, query=Query(retry_s=0, retrieve="none")))
    assert completer.step() == 0 and pacs.fetched == []
    here.arrive(4)
    assert completer.step() == 1


def test_a_pacs_that_is_away_holds_a_series_up_until_the_cap(here):
    pacs = FakePacs(here, holds=3, away=True)
    assert here.completer(pacs).step() == 0
    assert here.row.reason == "no association"
    assert here.completer(pacs, replace(SETTINGS, give_up_h=0)).step() == 1
    assert here.findings() == ["COUNT_UNCONFIRMED"] and here.queued == [uids(1, 2, 3)]


def test_after_the_cap_what_is_there_is_worked_with_a_finding_that_a_complete_revision_does_not_have(here):
    pacs = FakePacs(here, holds=4, gives=())
    assert here.completer(pacs, replace(SETTINGS, give_up_h=0)).step() == 1
    assert here.findings() == ["SERIES_INCOMPLETE"]
    here.arrive(4)
    assert here.completer(pacs).step() == 1 and here.findings() == []


def test_a_series_that_never_comes_to_rest_is_worked_after_the_cap(here):
    assert here.completer(settings=replace(SETTINGS, quiet_s=3600, give_up_h=0)).step() == 1
    assert here.findings() == ["SERIES_INCOMPLETE"]


def test_a_slice_that_comes_while_the_series_is_looked_at_is_in_this_revision_or_the_next(here):
    class Slow(FakePacs):
        def count(self, study_uid, series_uid):
            self.here.arrive(9)
            return 0

    assert here.completer(Slow(here, 0)).step() == 0
    assert here.completer().step() == 1 and here.queued == [uids(1, 2, 3, 9)]


def test_a_late_slice_of_a_purged_series_makes_no_result_of_itself_alone(here):
    here.completer().step()
    with here.database.begin() as connection:
        connection.execute(instance.update().values(state="purged"))
    here.arrive(4)
    assert here.completer().step() == 0
    assert here.row.state == "ended" and "3 instances were purged" in here.row.reason and len(here.queued) == 1


def test_a_series_that_breaks_what_looks_at_it_waits_with_its_reason_and_the_others_go_on(here):
    here.arrive(1, series_uid="1.2.4")
    here.arrive(1, series_uid="1.2.5")
    completer, met = here.completer(settings=replace(SETTINGS, query=Query(retry_s=1000))), []

    def emit(connection, series_uid, instances):
        met.append(series_uid)
        if series_uid == SERIES:
            raise KeyError

    completer.emit = emit
    assert completer.step() == 2 and sorted(met) == [SERIES, "1.2.4", "1.2.5"]
    row = here.row
    assert (row.state, row.attempts) == ("arriving", 1) and row.reason.startswith("INTERNAL_ERROR: KeyError")
    assert 500 <= row.not_before - row.last_at <= 1000 + PATIENCE_S
    assert completer.step() == 0  # it waits
    completer.emit = here.completer().emit
    assert look_again(here.database) == 1
    assert completer.step() == 1 and here.row.state == "queued" and here.queued == [uids(1, 2, 3)]


def test_it_waits_after_the_cap_too_and_not_beyond_the_cap(here):
    cap_s = 4 * PATIENCE_S
    completer = here.completer(settings=replace(SETTINGS, give_up_h=cap_s / 3600, query=Query(retry_s=10 * cap_s)))
    completer.emit = broken
    completer.step()
    assert cap_s - 1 <= here.row.not_before - here.row.first_at <= cap_s + PATIENCE_S
    late = here.completer(settings=replace(SETTINGS, give_up_h=0, query=Query(retry_s=1000)))
    look_again(here.database)
    late.emit = broken
    late.step()
    assert here.row.not_before - here.row.first_at > 400


def broken(connection, series_uid, instances):
    raise KeyError


def test_a_question_that_the_pacs_refuses_holds_up_its_own_series_alone(here):
    here.arrive(1, series_uid="1.2.4")

    class Choosy(FakePacs):
        def count(self, study_uid, series_uid):
            if series_uid == SERIES:
                raise PacsRefused("C-FIND ended with status 0xA700")
            return 1

    completer = here.completer(Choosy(here, 3), replace(SETTINGS, query=Query(retry_s=1000)))
    assert completer.step() == 1 and here.row.reason == "C-FIND ended with status 0xA700"


def test_a_database_that_is_away_is_no_fault_of_the_series(here, monkeypatch, caplog):
    monkeypatch.setattr("app.pacs.service.PAUSE_S", 0.01)
    completer, met = here.completer(), []

    def emit(connection, series_uid, instances):
        met.append(series_uid)
        if len(met) == 1:
            raise OperationalError("INSERT", {}, OSError())
        completer.service.stop()

    completer.emit = emit
    completer.run()
    assert met == [SERIES, SERIES] and here.row.state == "queued" and here.row.attempts == 0
    assert "DATABASE_AWAY: OperationalError in the completer" in caplog.text
