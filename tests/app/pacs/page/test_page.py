"""The page shows what the queue says, changes nothing without its token, and answers nobody who calls it otherwise."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from app.pacs import trail
from app.pacs.database.engine import Database
from app.pacs.database.tables import now, series
from app.pacs.jobs import Ended
from app.pacs.page.serve import HastyProtocol, page
from app.pacs.page_settings import PageSettings
from app.pacs.places import Places
from app.pacs.queue import finish, lease
from operators.errors import StartError
from tests.support.checkout import skip_or_fail
from tests.support.pages import client_of
from tests.support.queued import arrive, make_results, queue_series, state_of
from tests.support.waiting import PATIENCE_S, until

TOKEN = "a token of this test"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "listener")
    made.make()
    return made


@pytest.fixture
def filled(sqlite: Database, places: Places) -> Database:
    """One series arrives, one is held up, one waits, one was sent to one of two destinations, and one failed."""
    arrive(sqlite, "1.2.1", [1])
    make_results(sqlite, places, "1.2.2", ["PACS", "<b>ARCHIVE</b>"])
    queue_series(sqlite, "1.2.3")
    one = lease(sqlite, "w", 60)
    assert one
    finish(sqlite, one, Ended("failed", "OUT_OF_MEMORY", "not enough memory; <script>free some</script>"))
    queue_series(sqlite, "1.2.4")
    arrive(sqlite, "1.2.5", [1])
    held_up = {"attempts": 4, "reason": "INTERNAL_ERROR: KeyError while it was looked at", "not_before": now() + 300}
    with sqlite.begin() as connection:
        connection.execute(update(series).where(series.c.series_uid == "1.2.5").values(held_up))
    return sqlite


@pytest.fixture
def served(filled: Database, places: Places, tmp_path: Path) -> Iterator[httpx.Client]:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    settings = PageSettings(port=0, token_file=str(tmp_path / "token"))
    checks = {"spool": places.spool.is_dir}
    with page(settings, filled, places, checks) as port, client_of(port) as client:
        yield client


def test_the_page_says_what_waits_and_what_failed_and_escapes_what_it_shows(served):
    answer = served.get("/")
    assert answer.status_code == 200 and "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "1.2.3" in answer.text and "OUT_OF_MEMORY" in answer.text
    assert "1.2.5" in answer.text and "INTERNAL_ERROR: KeyError" in answer.text
    assert "&lt;b&gt;ARCHIVE&lt;/b&gt;" in answer.text and "<script>" not in answer.text


def test_metrics_are_what_prometheus_reads(served):
    from prometheus_client.parser import text_string_to_metric_families

    text = served.get("/metrics").text
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["ctvae_instances_acknowledged_total",] == 8
    assert values["ctvae_jobs", "failed"] == 1 and values["ctvae_jobs", "superseded"] == 0
    assert values["ctvae_deliveries", "PACS", "waiting"] == 1
    assert values["ctvae_series_arriving",] == 2 and values["ctvae_series_held_up",] == 1
    assert values["ctvae_spool_free_bytes",] > 0


def test_nothing_changes_without_the_token_and_a_retry_with_it(served, filled):
    failed = 2
    for given in ({}, {"token": "wrong"}, {"token": "ü"}):
        assert served.post("/retry", data={"job": failed, **given}).status_code == 403
    assert served.get("/retry").status_code == 405
    assert state_of(filled, failed)[0] == "failed"
    assert served.post("/retry", data={"job": "x", "token": TOKEN}).status_code == 400
    assert served.post("/retry", data={"job": failed, "token": TOKEN}).status_code == 303
    assert state_of(filled, failed)[0] == "waiting"
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert served.post("/retry", data={"job": failed}, headers=bearer).status_code == 303


def test_a_retry_and_a_wrong_token_are_in_the_audit_trail(served, tmp_path):
    with trail.trailing(str(tmp_path / "audit")):
        served.post("/retry", data={"job": 2, "token": "wrong"})
        served.post("/retry", data={"job": 2, "token": TOKEN})
        served.post("/retry", data={"job": 2, "token": TOKEN})  # nothing has failed any more
    alert, retry = (json.loads(line) for line in (tmp_path / "audit").read_text().splitlines())
    assert (alert["event"]["meaning"], alert["reason"]) == ("Security Alert", "TOKEN")
    assert retry["type"]["code"] == "retry" and retry["object"] == {"jobs": [2], "worked": 1, "sent": 0}
    assert retry["participants"] == [{"role": "user", "address": "127.0.0.1"}]


def test_a_page_of_somebody_else_cannot_read_ours_under_its_own_name(served):
    assert served.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert served.post("/retry", content=b"x" * 100_000).status_code == 413


def test_readiness_names_the_part_that_does_not_work(served, places):
    assert served.get("/healthz").text == "ok"
    assert served.get("/readyz").json() == {"database": True, "spool": True}
    places.spool.rmdir()
    answer = served.get("/readyz")
    assert (answer.status_code, answer.json()["spool"]) == (503, False)


def test_peers_that_ask_nothing_or_drip_their_headers_do_not_keep_others_out(served, monkeypatch):
    loops, connected = set(), HastyProtocol.connection_made

    def connection_made(self, transport):
        loops.add(self.loop)
        connected(self, transport)

    monkeypatch.setattr(HastyProtocol, "connection_made", connection_made)
    where = ("127.0.0.1", served.base_url.port)
    peers = [socket.create_connection(where, timeout=PATIENCE_S) for _ in range(80)]
    peers[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
    until(lambda: served.get("/healthz").status_code == 503)
    (loop,) = loops
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + PATIENCE_S)  # all of them are late now
    until(lambda: served.get("/healthz").status_code == 200)
    assert peers[0].recv(100) == b"" == peers[1].recv(100)
    for peer in peers:
        peer.close()


def test_without_a_token_file_nothing_can_be_changed_and_the_page_has_no_button(filled, places):
    with page(PageSettings(port=0), filled, places, {}) as port, client_of(port) as client:
        assert client.post("/retry", data={"job": 2, "token": ""}).status_code == 403
        assert "<form" not in client.get("/").text


def test_a_port_in_use_and_a_token_that_is_too_short_are_said(filled, places, tmp_path):
    with page(PageSettings(port=0), filled, places, {}) as port:
        taken = page(PageSettings(port=port), filled, places, {})
        with pytest.raises(StartError, match="PORT_UNUSABLE"):
            taken.__enter__()
    (tmp_path / "token").write_text("short")
    settings = PageSettings(port=0, token_file=str(tmp_path / "token"))
    with pytest.raises(StartError, match="TOKEN_UNREADABLE"), page(settings, filled, places, {}):
        pass


def test_a_browser_retries_by_a_click(served, filled, tmp_path):
    if shutil.which("chromium") is None:
        skip_or_fail("no chromium; run .ci/programs")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"], timeout=1000 * PATIENCE_S
        )
        tab = browser.new_page(viewport={"width": 1100, "height": 900})
        tab.set_default_timeout(1000 * PATIENCE_S)
        tab.goto(str(served.base_url))
        if shot := os.environ.get("CTVAE_SCREENSHOT"):
            tab.screenshot(path=shot, full_page=True)
        tab.get_by_label("token").fill(TOKEN)
        tab.get_by_role("button", name="Retry").click()
        tab.get_by_text("Nothing failed.").wait_for()
        browser.close()
    assert state_of(filled, 2)[0] == "waiting"
