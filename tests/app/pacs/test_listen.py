"""`ctvae listen` as a service: from C-STORE to an SR in Orthanc, SIGTERM, a full disk, and a start that fails."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.cli import main
from app.pacs import deliveries, listen
from app.pacs.database.engine import open_database
from app.pacs.database.tables import delivery, job
from app.pacs.places import Places
from app.pacs.settings import Limits, ListenerSettings
from tests.support.checkout import ROOT, skip_or_fail
from tests.support.listeners import stored
from tests.support.orthanc import AE_TITLE, DICOM_PORT, URL, loopback, need_orthanc, orthanc
from tests.support.queued import QUIET_S, let_quiet_time_pass, make_results
from tests.support.tiny_ct import stored_values, write_tiny_ct
from tests.support.waiting import PATIENCE_S, until

LISTEN = [sys.executable, "-c", "import sys; from app.cli import main; sys.exit(main(['listen', *sys.argv[1:]]))"]
LISTENING = re.compile(r"listening as CTVAE on 127\.0\.0\.1:(\d+)")


def settings_file(folder: Path, **listener) -> Path:
    path = folder / "app.yaml"
    path.write_text(
        json.dumps({"listener": {"folder": str(folder / "here"), "port": 0, "quiet_s": QUIET_S, **listener}})
    )
    return path


@contextmanager
def listening(folder: Path, *before: str | Path, **listener):
    """The running program, its port and its log."""
    log = folder / "log"
    command = [*before, *LISTEN, "-c", str(settings_file(folder, **listener))]
    with log.open("w") as to, subprocess.Popen(command, stderr=to, cwd=ROOT) as program:
        try:
            until(lambda: LISTENING.search(log.read_text()) or program.poll() is not None)
            found = LISTENING.search(log.read_text())
            assert found, log.read_text()
            yield program, int(found[1]), log
        finally:
            program.terminate()


def rows(folder, table):
    database = open_database(f"sqlite:///{folder}/here/queue.db")
    with database.read() as connection:
        found = connection.execute(table.select()).all()
    database.close()
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory, phantom_ct):
    """A listener that got a CT by storescu, in a namespace with the Orthanc that its results go to."""
    need_orthanc()
    folder = tmp_path_factory.mktemp("served")
    (folder / "orthanc").mkdir()
    to = {"name": "pacs", "ae_title": AE_TITLE, "port": DICOM_PORT}
    with loopback() as network, orthanc(folder / "orthanc", None, network):
        told = {"form": "json", "audit_file": str(folder / "audit.jsonl")}
        with listening(folder, *network.command([]), destinations=[to], log=told) as (program, port, log):
            network.run(["/usr/bin/storescu", "-aec", "CTVAE", "127.0.0.1", str(port), "+sd", phantom_ct], check=True)
            database = open_database(f"sqlite:///{folder}/here/queue.db")
            let_quiet_time_pass(database)
            database.close()
            until(lambda: [row.state for row in rows(folder, delivery)] == ["sent"])
            held = network.run([sys.executable, "-c", HELD])
            os.kill(program.pid, signal.SIGTERM)
            code = program.wait(PATIENCE_S)
        trail = (folder / "audit.jsonl").read_text()
        return {"folder": folder, "code": code, "held": json.loads(held.stdout), "log": log.read_text(), "trail": trail}


HELD = f"""
import json, urllib.request
ask = lambda path: json.load(urllib.request.urlopen("{URL}" + path))
print(json.dumps([ask("/instances/" + one + "/simplified-tags")["Modality"] for one in ask("/instances")]))
"""


def test_a_ct_that_was_sent_comes_back_to_the_pacs_as_an_sr(served):
    assert served["held"] == ["SR"]
    assert [row.state for row in rows(served["folder"], job)] == ["done"]


def test_sigterm_ends_it_in_order_with_code_0_and_leaves_nothing_half_done(served):
    assert served["code"] == 0
    assert not list((served["folder"] / "here" / "spool" / "incoming").iterdir())
    assert not list((served["folder"] / "here" / "work").iterdir())
    assert not (served["folder"] / "here" / ".ctvae.lock").exists()


def test_no_identity_is_in_the_log_and_in_the_audit_trail(served):
    said = served["log"] + served["trail"]
    assert "phantom" not in said.lower() and "Traceback" not in said


def test_each_line_of_a_json_log_is_an_object(served):
    lines = [json.loads(line) for line in served["log"].splitlines()]
    assert {"time", "level", "logger", "message"} <= lines[0].keys()
    assert "stopping" in [line["message"] for line in lines]


def test_the_audit_trail_tells_who_sent_what_was_made_of_it_and_where_it_went(served, phantom_ct):
    events = [json.loads(line) for line in served["trail"].splitlines()]
    start, arrived, worked, sent, stop = events
    assert [one["outcome"] for one in events] == [0] * 5
    assert [one["event"]["code"] for one in events] == ["110100", "110104", "110103", "110104", "110100"]
    assert [one["type"]["code"] for one in (start, stop)] == ["110120", "110121"]
    slices = len(list(phantom_ct.iterdir()))
    source = {"role": "source", "ae_title": "STORESCU", "address": "127.0.0.1", "instances": slices}
    assert arrived["participants"] == [source, {"role": "destination", "ae_title": "CTVAE"}]
    assert arrived["object"]["series_uid"] == worked["object"]["series_uid"]
    assert sent["object"]["sop_uid"] in [one["sop_uid"] for one in worked["object"]["results"]]
    assert sent["participants"][0] | {"name": "pacs", "ae_title": AE_TITLE} == sent["participants"][0]
    assert sent["object"]["status"] == "0x0000"


RECEIVE = """
import sys
from pathlib import Path
from tests.support.listeners import listener
with listener(Path(sys.argv[1]), reserve_bytes=8 << 20) as here:
    print(here.port, flush=True)
    sys.stdin.read()
"""


def test_a_full_disk_refuses_with_a700_and_goes_on_when_there_is_room(tmp_path):
    disk = tmp_path / "here"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=26m none {disk} && head -c 8388608 /dev/zero >{disk}/filler && exec "$@"'
    alone = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c", mount, "sh"]
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        skip_or_fail("no file system can be mounted here; run as root, or allow user namespaces")
    slices = write_tiny_ct(tmp_path / "slices", stored_values(10, 512, 1024))  # 1 MiB each
    command = [*alone, sys.executable, "-W", "ignore", "-c", RECEIVE, str(disk)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as program:
        port, there = int(program.stdout.readline()), Path(f"/proc/{program.pid}", "root", str(disk).lstrip("/"))
        statuses = stored(port, *slices)
        kept = statuses.count(0)
        assert statuses == [0] * kept + [0xA700] * (10 - kept) and 3 < kept < 10
        assert len(list((there / "spool").rglob("*.dcm"))) == kept
        assert not list((there / "spool" / "incoming").iterdir())
        (there / "filler").unlink()
        assert stored(port, *slices) == [0] * 10
        assert len(list((there / "spool").rglob("*.dcm"))) == 10
        program.stdin.close()


def test_what_a_killed_listener_was_sending_is_sent_at_once(tmp_path):
    places = Places(tmp_path / "here")
    places.make()
    database = open_database(places.database_url)
    make_results(database, places, "1.1", ["COPIES"])
    assert deliveries.take(database, "COPIES", 3600)
    database.close()
    (tmp_path / "copies").mkdir()
    to = {"name": "COPIES", "kind": "folder", "path": str(tmp_path / "copies")}
    with listening(tmp_path, destinations=[to]):
        until(lambda: [row.state for row in rows(tmp_path, delivery)] == ["sent"])


def test_the_spool_keeps_free_what_the_settings_say(sqlite, tmp_path, monkeypatch):
    monkeypatch.setattr(listen, "receive_into", lambda spool: None)  # for this process
    places = Places(tmp_path)
    places.make()
    limits = Limits(max_object_mb=3)
    spool = listen._opened_spool(ListenerSettings(reserve_mb=7, limits=limits), places, sqlite)
    assert (spool.reserve_bytes, spool.max_object_bytes) == (7_000_000, 3_000_000)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"prot": 1}, "SETTINGS_INVALID"),
        ({"address": "192.0.2.1"}, "PORT_UNUSABLE"),
        ({"database": "mysql://here"}, "DATABASE_INVALID"),
    ],
)
def test_what_it_cannot_start_with_is_one_line_and_code_3(tmp_path, capsys, wrong, said):
    code = main(["listen", "-c", str(settings_file(tmp_path, **wrong)), "-l", "WARN"])
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (3, 1) and said in error
