"""The audit trail: rotated by the system, stopped by no full disk, and not flooded by peers that are rejected."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path

import pytest

from app.cli import main
from app.json_log import JsonLines
from app.pacs import trail
from app.pacs.judge import judged
from app.pacs.places import Places
from app.pacs.receive import accepted_contexts, application_entity
from app.pacs.server import HardenedServer
from app.pacs.settings import ListenerSettings
from operators.errors import StartError
from tests.support.clocks import Clock
from tests.support.listeners import PATIENT, listener, rejection, stored
from tests.support.queued import make_results, sent_to
from tests.support.tiny_ct import put, stored_values, write_tiny_ct


def events(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_its_owner_alone_reads_it_and_a_file_that_was_moved_away_is_begun_anew(tmp_path):
    file = tmp_path / "audit.jsonl"
    with trail.trailing(str(file)):
        trail.purged("1.2.3", 4)
        file.rename(tmp_path / "audit.jsonl.1")
        trail.purged("1.2.4", 5)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (before,), (after,) = events(tmp_path / "audit.jsonl.1"), events(file)
    assert (before["object"]["series_uid"], after["object"]["series_uid"]) == ("1.2.3", "1.2.4")
    assert before["participants"][0]["role"] == "user" and before["event"]["meaning"] == "DICOM Study Deleted"


def test_without_a_file_the_events_are_lines_of_the_log_also_where_it_only_warns(caplog):
    with trail.trailing(None):
        trail.purged("1.2.3", 4)
    (record,) = caplog.records
    assert json.loads(record.getMessage())["action"] == "D"
    assert json.loads(JsonLines().format(record))["audit"]["object"]["series_uid"] == "1.2.3"


def test_a_folder_that_is_gone_is_said_in_the_log_and_stops_nobody(tmp_path, caplog):
    folder = tmp_path / "trail"
    folder.mkdir()
    with trail.trailing(str(folder / "audit.jsonl")):
        (folder / "audit.jsonl").unlink()
        folder.rmdir()
        trail.purged("1.2.3", 4)
        assert "AUDIT_UNWRITABLE" in caplog.text
        folder.mkdir()
        trail.purged("1.2.4", 4)
    assert [one["object"]["series_uid"] for one in events(folder / "audit.jsonl")] == ["1.2.4"]


def test_a_file_that_cannot_be_written_stops_the_start(tmp_path):
    with pytest.raises(StartError, match="NOT_ACCESSIBLE"), trail.trailing(str(tmp_path / "nowhere" / "audit")):
        pass


def test_what_was_refused_is_told_with_its_sender_and_the_reason(tmp_path):
    (broken,) = write_tiny_ct(tmp_path / "x", stored_values(1), change=lambda one, d: put(one, SeriesInstanceUID=None))
    with listener(tmp_path) as here, trail.trailing(str(tmp_path / "audit")):
        assert stored(here.port, broken) == [0xC000]
    (told,) = events(tmp_path / "audit")
    assert (told["outcome"], told["reason"]) == (4, "SeriesInstanceUID is missing")
    assert told["participants"] == [{"role": "source", "ae_title": "SENDER", "address": "127.0.0.1"}]


def test_a_peer_that_is_rejected_again_and_again_is_one_line_a_minute_with_its_count(tmp_path):
    clock = Clock()
    rejections = trail.Rejections(clock=clock)
    settings = ListenerSettings(limits=PATIENT)
    server = HardenedServer(
        application_entity(settings),
        ("127.0.0.1", 0),
        accepted_contexts(),
        limits=PATIENT,
        on_stranger=rejections.heard,
    )
    server.start()
    with trail.trailing(str(tmp_path / "audit")):
        for _ in range(3):
            assert rejection(server.port, called="OTHER", calling="STRANGER") == (1, 1, 7)
        clock.now += trail.ONCE_IN_S
        assert rejection(server.port, called="OTHER", calling="STRANGER") == (1, 1, 7)
    server.stop()
    first, last = events(tmp_path / "audit")
    assert (first["object"], last["object"]) == ({"associations": 1}, {"associations": 3})
    assert first["participants"][0] == {"role": "source", "ae_title": "STRANGER", "address": "127.0.0.1"}
    assert (first["event"]["code"], first["type"]["code"]) == ("110113", "110126")


def test_purge_on_the_command_line_writes_into_the_file_of_the_settings(sqlite, tmp_path, capsys):
    make_results(sqlite, Places(tmp_path), "1.2.3", [])
    settings = tmp_path / "app.yaml"
    told = {"folder": str(tmp_path), "retention_days": 0, "log": {"audit_file": str(tmp_path / "audit")}}
    settings.write_text(json.dumps({"listener": told}))
    (tmp_path / "spool" / "instances" / "1.2.3").mkdir(parents=True)
    assert main(["queue", "purge", "--yes", "-c", str(settings)]) == 0
    assert "1 series, 2 instances" in capsys.readouterr().out
    (told,) = events(tmp_path / "audit")
    assert told["object"] == {"series_uid": "1.2.3", "instances": 2}


def test_a_retry_and_a_replay_on_the_command_line_are_told(sqlite, tmp_path, capsys):
    make_results(sqlite, Places(tmp_path), "1.2.3", ["PACS"])
    sent_to(sqlite, "PACS", judged(0xA900))
    settings = tmp_path / "app.yaml"
    told = {"folder": str(tmp_path), "log": {"audit_file": str(tmp_path / "audit")}}
    settings.write_text(json.dumps({"listener": told}))
    for arguments in (["retry", "1"], ["retry", "1"], ["replay", "--since", "2020-01-01"]):
        main(["queue", *arguments, "-c", str(settings)])
    retry, replay = events(tmp_path / "audit")  # the second retry found nothing that failed
    assert retry["type"]["code"] == "retry" and retry["object"] == {"jobs": [1], "worked": 0, "sent": 1}
    assert replay["type"]["code"] == "replay" and replay["object"]["jobs"] == [2]
    assert retry["participants"][0]["role"] == replay["participants"][0]["role"] == "user"


def test_a_reason_code_is_a_field_of_its_own_and_a_line_break_begins_no_line():
    record = logging.LogRecord("app", logging.ERROR, "", 0, "WORKER_DIED: %s", ("a\nb",), None)
    line = JsonLines().format(record)
    assert "\n" not in line and json.loads(line)["reason"] == "WORKER_DIED"
