"""`ctvae queue` as it is typed: what it prints, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update

from app.cli import main
from app.pacs.database.engine import Database, open_database
from app.pacs.database.tables import now, series
from app.pacs.jobs import Ended
from app.pacs.places import Places
from app.pacs.queue import finish, lease
from tests.support.queued import arrive, make_results, paths_of, queue_series, state_of

Call = Callable[..., tuple[int, str, str]]
NOTHING_ELSE = "0 jobs will run again, 0 deliveries will be sent again"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "listener")
    made.make()
    return made


@pytest.fixture
def database(places: Places):
    opened = open_database(places.database_url)
    yield opened
    opened.close()


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    settings = tmp_path / "app.yaml"
    settings.write_text(f"listener: {{folder: {tmp_path}/listener, retention_days: 0}}\n")

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["queue", *words, "-c", str(settings)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def fill_spool(database: Database, places: Places) -> None:
    for path in paths_of(database):
        (places.spool / path).parent.mkdir(parents=True, exist_ok=True)
        (places.spool / path).write_bytes(b"1")


def test_a_queue_that_is_not_there_is_not_made(call, tmp_path):
    code, out, err = call("list")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "NO_QUEUE: no queue at" in err and "ctvae listen" in err
    assert not (tmp_path / "listener").exists()


def test_jobs_are_listed_shown_and_retried(call, database, places):
    sent = make_results(database, places, "1.1", ["PACS"])
    failed = queue_series(database, "1.2")
    one = lease(database, "w", 60)
    assert one
    finish(database, one, Ended("failed", "OUT_OF_MEMORY", "not enough memory"))
    code, out, _ = call("list")
    assert code == 0 and len(out.splitlines()) == 2
    assert "failed" in out and "OUT_OF_MEMORY" in out and "PACS waiting" in out
    assert [one["id"] for one in json.loads(call("list", "--state", "done", "--json")[1])] == [sent]
    code, _, err = call("list", "--state", "broken")
    assert code == 3 and "expected one of waiting" in err
    shown = call("show", str(sent))[1]
    assert "delivery" in shown and "2.25.10" in shown and "1970" not in shown
    assert call("show", "99")[0] == 3
    assert call("retry")[0] == 3
    assert call("retry", "--failed")[:2] == (
        0,
        "1 jobs will run again, 0 deliveries will be sent again, 0 series will be checked again\n",
    )
    assert state_of(database, failed)[0] == "waiting"
    assert call("retry", "--failed")[0] == 2


def test_what_holds_a_series_up_is_said_and_retry_has_it_looked_at(call, database):
    arrive(database, "1.1", [1, 2])
    arrive(database, "1.2", [1])
    held_up = {"attempts": 3, "reason": "INTERNAL_ERROR: KeyError", "not_before": now() + 600, "expected": 9}
    with database.begin() as connection:
        connection.execute(update(series).where(series.c.series_uid == "1.1").values(held_up))
    code, out, _ = call("series")
    first, second = out.splitlines()
    assert code == 0 and first.startswith("1.1  arriving  2 of 9 instances, last 20")
    assert "  INTERNAL_ERROR: KeyError; attempt 3, next 20" in first and second.startswith("1.2  arriving  1 instances")
    assert call("retry", "--failed")[:2] == (0, f"{NOTHING_ELSE}, 1 series will be checked again\n")
    assert [one["attempts"] for one in json.loads(call("series", "--json")[1])] == [0, 0]


def test_an_audit_says_zero_or_which(call, database, places):
    make_results(database, places, "1.1", [])
    queue_series(database, "1.2")
    fill_spool(database, places)
    code, out, _ = call("audit")
    expected = "4 instances acknowledged = 2 in a delivered result + 2 waiting + 0 ended with a reason; difference 0\n"
    assert (code, out) == (0, expected)
    (places.spool / "instances" / "1.2" / "1.2.1.dcm").unlink()
    code, out, _ = call("audit")
    assert code == 1 and "difference 1\n  LOST 1.2.1 of series 1.2: its file is gone" in out
    assert json.loads(call("audit", "--json")[1])["difference"] == 1


def test_purge_says_first_and_deletes_when_it_is_told_to(call, database, places):
    make_results(database, places, "1.1", [])
    fill_spool(database, places)
    code, out, _ = call("purge")
    assert code == 0 and out.endswith("1 series, 2 instances, 0.0 MB: would be deleted; --yes deletes them\n")
    assert len(list(places.spool.rglob("*.dcm"))) == 2
    assert call("purge", "--days", "1")[1].startswith("0 series")
    assert call("purge", "--yes")[1].endswith("1 series, 2 instances: deleted\n")
    assert not list(places.spool.rglob("*.dcm")) and call("audit")[0] == 0


def test_a_backlog_is_queued_again_and_said_so(call, database, places):
    make_results(database, places, "1.1", [])
    code, out, err = call("replay", "--since", "2020-01-01")
    assert (code, out) == (0, "1 series queued, 0 series known already, 0 series purged from the spool\n"), err
    assert call("replay", "--since", "2020-01-01")[0] == 2
