"""A watched folder: what has settled is taken once, nothing of it is changed, and what is no CT is left alone."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless

from app.cli import main
from app.pacs.database.engine import Database, open_database
from app.pacs.database.tables import instance, series, watched
from app.pacs.intake import Intake
from app.pacs.spool import Spool
from app.pacs.watch import Watcher
from app.pacs.watch_settings import WatchSettings
from tests.support.checkout import ROOT
from tests.support.clocks import Clock
from tests.support.queued import QUIET_S, let_quiet_time_pass
from tests.support.tiny_ct import SERIES, compress, put, stored_values, write_tiny_ct
from tests.support.waiting import PATIENCE_S, until


@pytest.fixture
def watcher(sqlite: Database, tmp_path: Path) -> Watcher:
    folder = tmp_path / "Doe^Jane"
    folder.mkdir()
    intake = Intake(Spool(tmp_path / "spool", 0, 1 << 30), sqlite)
    return Watcher(intake, folder, WatchSettings(settle_s=5, cut_off_s=300), Clock())


def later(watcher: Watcher, seconds: float = 6.0) -> int:
    """Look, wait, look; how many files were taken."""
    found = watcher.step()
    watcher.clock.now += seconds
    return found + watcher.step()


def rows(database: Database, table) -> list:
    with database.read() as connection:
        return list(connection.execute(table.select()))


def kept(watcher: Watcher) -> list[Path]:
    return sorted(watcher.intake.spool.root.rglob("*.dcm"))


def test_a_file_is_taken_when_it_has_settled_with_the_bytes_that_it_has(watcher, sqlite):
    slices = write_tiny_ct(watcher.folder / "a" / "b", stored_values(3))
    assert watcher.step() == 0
    watcher.clock.now += 4
    assert watcher.step() == 0
    os.utime(slices[0], (1, 1))
    watcher.clock.now += 2
    assert watcher.step() == 2
    watcher.clock.now += 6
    assert watcher.step() == 1 and watcher.step() == 0
    assert {path.read_bytes() for path in kept(watcher)} == {path.read_bytes() for path in slices}
    (row,) = rows(sqlite, series)
    assert (row.series_uid, row.state, row.source_ae) == (SERIES, "arriving", "WATCH")
    assert not list((watcher.intake.spool.root / "incoming").iterdir())


def test_what_was_taken_is_remembered_over_a_restart_by_no_name(watcher, sqlite, monkeypatch):
    slices = write_tiny_ct(watcher.folder, stored_values(2))
    (watcher.folder / "notes.txt").write_text("no DICOM")
    assert later(watcher) == 2
    assert "Doe" not in str(rows(sqlite, watched) + rows(sqlite, instance))
    again = Watcher(watcher.intake, watcher.folder, watcher.settings, Clock())
    monkeypatch.setattr("app.pacs.watch.is_whole", lambda path: pytest.fail("it was opened again"))
    assert later(again) == 0
    slices[0].unlink()
    again.step()
    assert len(rows(sqlite, watched)) == 2


def test_the_same_instance_under_another_name_changes_nothing_and_other_content_is_kept_apart(watcher, sqlite):
    (one,) = write_tiny_ct(watcher.folder, stored_values(1))
    assert later(watcher) == 1
    shutil.copy(one, watcher.folder / "copy")
    assert later(watcher) == 0
    write_tiny_ct(watcher.folder / "other", stored_values(1, seed=3))
    assert later(watcher) == 1
    assert [(row.copy, row.state) for row in rows(sqlite, instance)] == [(0, "kept"), (1, "aside")]


@pytest.mark.parametrize("syntax", [None, JPEGLSLossless])
def test_a_file_that_is_cut_off_is_waited_for(watcher, syntax, tmp_path):
    (whole,) = write_tiny_ct(
        tmp_path / "made", stored_values(1, 32, 32), **({"change": compress(syntax)} if syntax else {})
    )
    half, content = watcher.folder / "half", whole.read_bytes()
    half.write_bytes(content[:-100])
    assert later(watcher) == 0 and later(watcher, 200) == 0
    half.write_bytes(content)
    assert later(watcher) == 1
    assert [path.read_bytes() for path in kept(watcher)] == [content]


def test_a_file_that_stays_cut_off_is_taken_as_it_is_so_that_the_series_says_why(watcher, tmp_path):
    (whole,) = write_tiny_ct(tmp_path / "made", stored_values(1))
    (watcher.folder / "half").write_bytes(whole.read_bytes()[:-10])
    assert later(watcher, 301) == 1


def test_what_is_no_ct_is_left_alone_and_a_broken_file_is_said_without_its_name(watcher, caplog):
    def change(dataset, d):
        if d == 0:
            put(dataset, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.34")
            dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.34"
        else:
            put(dataset, SeriesInstanceUID="../../x")

    write_tiny_ct(watcher.folder, stored_values(2), change=change)
    (watcher.folder / "link").symlink_to(watcher.folder)
    before = {path: path.read_bytes() for path in watcher.folder.iterdir() if path.is_file()}
    assert later(watcher) == 0 and watcher._waiting == {}
    assert kept(watcher) == []
    assert [record.getMessage() for record in caplog.records] == [
        "a file of the watched folder was refused: SeriesInstanceUID is no valid UID"
    ]
    assert {path: path.read_bytes() for path in before} == before


def test_a_file_at_which_the_program_breaks_waits_and_the_others_are_taken(watcher, caplog, monkeypatch):
    write_tiny_ct(watcher.folder, stored_values(3))
    real, calls = Intake.take_in_file, itertools.count(1)

    def break_at_one(self, incoming, origin, accept):
        if next(calls) in (1, 4):  # the first of three files, and the same when it is tried again
            raise ValueError("a fault of ours")
        return real(self, incoming, origin, accept)

    monkeypatch.setattr(Intake, "take_in_file", break_at_one)
    assert later(watcher) == 2
    watcher.turn()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "INTERNAL_ERROR: ValueError at a file of the watched folder; it waits"
    ]
    monkeypatch.setattr(Intake, "take_in_file", real)
    assert watcher.step() == 1


def test_a_full_disk_takes_nothing_half_and_goes_on_when_there_is_room(watcher, sqlite, caplog):
    write_tiny_ct(watcher.folder, stored_values(3))
    watcher.step()
    watcher.clock.now += 6
    watcher.intake.spool.reserve_bytes = 1 << 60
    for _ in range(2):
        watcher.turn()
    assert caplog.text.count("files wait") == 1 and kept(watcher) == [] and rows(sqlite, watched) == []
    watcher.intake.spool.reserve_bytes = 0
    watcher.turn()
    assert len(kept(watcher)) == 3


def test_a_folder_that_is_away_is_said_and_what_was_in_it_is_not_taken_twice(watcher, sqlite, caplog):
    write_tiny_ct(watcher.folder, stored_values(2))
    assert later(watcher) == 2
    away = watcher.folder.rename(watcher.folder.with_name("away"))
    watcher.turn()
    assert "the watched folder cannot be read: No such file or directory; check the path; trying again" in caplog.text
    watcher.folder.mkdir()
    watcher.turn()
    watcher.folder.rmdir()
    away.rename(watcher.folder)
    assert len(rows(sqlite, watched)) == 2 and later(watcher) == 0


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, phantom_ct: Path) -> Iterator[dict]:
    """`ctvae watch` over a folder into which a CT was dropped, until its result was there."""
    root = tmp_path_factory.mktemp("watch")
    (root / "in").mkdir()
    log = {"form": "json", "audit_file": str(root / "audit")}
    told = {"folder": str(root / "state"), "quiet_s": QUIET_S, "watch": {"poll_s": 0.1, "settle_s": 0.2}, "log": log}
    (root / "app.yaml").write_text(json.dumps({"listener": told}))
    program = "import sys; from app.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "watch", root / "in", "-o", root / "out", "-c", root / "app.yaml"]
    with (root / "log").open("w") as to, subprocess.Popen(command, cwd=ROOT, stderr=to) as service:
        try:
            until(lambda: "watching a folder" in (root / "log").read_text() or service.poll() is not None)
            shutil.copytree(phantom_ct, root / "in" / "study")
            database = open_database(f"sqlite:///{root}/state/queue.db")
            until(
                lambda: len(rows(database, instance)) == len(list(phantom_ct.iterdir())) or service.poll() is not None
            )
            let_quiet_time_pass(database)
            database.close()
            until(lambda: "COPIED" in (root / "audit").read_text() or service.poll() is not None)
            service.send_signal(signal.SIGTERM)
            yield {"code": service.wait(PATIENCE_S), "root": root, "log": (root / "log").read_text()}
        finally:
            service.kill()


def test_a_ct_that_was_dropped_has_its_result_beside_and_is_as_it_was(ended, phantom_ct):
    assert ended["code"] == 0, ended["log"]
    root = ended["root"]
    uid = str(dcmread(next(phantom_ct.iterdir()), stop_before_pixels=True).SeriesInstanceUID)
    files = sorted(path.relative_to(root / "out").as_posix() for path in (root / "out").rglob("*") if path.is_file())
    assert files == [f"{uid}/features.json", f"{uid}/features.sr.dcm"]
    for path in phantom_ct.iterdir():
        assert (root / "in" / "study" / path.name).read_bytes() == path.read_bytes()
    assert "listening" not in ended["log"]


def test_its_audit_trail_names_the_folder_as_the_source(ended):
    events = [json.loads(line) for line in (ended["root"] / "audit").read_text().splitlines()]
    assert [one["participants"][0].get("ae_title") for one in events] == ["CTVAE", "WATCH", None, None, "CTVAE"]
    assert events[-1]["type"]["meaning"] == "Application Stop"


@pytest.mark.parametrize(
    ("folder", "output", "said"),
    [("nowhere", "out", "INPUT_MISSING"), (".", "out", "INPUT_AND_OUTPUT_OVERLAP")],
)
def test_a_folder_that_is_not_there_or_holds_the_output_stops_the_start(tmp_path, capsys, folder, output, said):
    (tmp_path / "app.yaml").write_text(json.dumps({"listener": {"folder": str(tmp_path / "state")}}))
    arguments = [str(tmp_path / folder), "-o", str(tmp_path / output), "-c", str(tmp_path / "app.yaml"), "-l", "WARN"]
    assert main(["watch", *arguments]) == 3
    assert said in capsys.readouterr().err
