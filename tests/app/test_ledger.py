"""A command owns what it wrote into the output folder, and nothing else; one run at a time writes into it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli import main as ctvae
from app.encode_folder import encode
from app.ledger import Ledger
from app.output_lock import LOCK_FILE, output_lock
from operators.errors import StartError
from operators.read_study import Inventory
from tests.support.checkout import ROOT
from tests.support.tiny_ct import put, write_tiny_ct


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def results(phantom_ct, tmp_path) -> Path:
    output = tmp_path / "out"
    assert ctvae(["encode", str(phantom_ct), "-o", str(output)]) == 0
    return output


def test_an_export_leaves_the_results_of_encode_as_they_are(phantom_ct, results):
    before = files(results)

    assert ctvae(["export", str(phantom_ct), "-o", str(results)]) == 0

    after = files(results)
    assert before.items() <= after.items()
    assert {Path(name).name.split(".", 1)[1] for name in after.keys() - before.keys()} >= {"export.json"}


def test_a_series_that_is_no_longer_written_loses_what_ctvae_wrote_and_nothing_else(phantom_ct, results, tmp_path):
    [folder] = [path for path in results.iterdir() if path.is_dir()]
    (folder / "features.mine.npz").write_bytes(b"the user's")
    broken = shutil.copytree(phantom_ct, tmp_path / "broken")
    sorted(path for path in broken.rglob("*") if path.is_file())[5].unlink()

    assert ctvae(["encode", str(broken), "-o", str(results)]) == 2

    assert [path.name for path in folder.iterdir()] == ["features.mine.npz"]


def test_a_ledger_that_ctvae_did_not_write_is_in_the_way(phantom_ct, tmp_path, capsys):
    (tmp_path / "outcome.json").write_text('{"trial": "outcome of another program"}')

    assert ctvae(["encode", str(phantom_ct), "-o", str(tmp_path)]) == 3

    assert "OUTPUT_IN_THE_WAY" in capsys.readouterr().err
    assert list(files(tmp_path)) == ["outcome.json"]


def test_a_second_run_is_told_who_holds_the_folder(phantom_ct, tmp_path, capsys):
    with Ledger(tmp_path) as first:
        assert ctvae(["encode", str(phantom_ct), "-o", str(tmp_path)]) == 3
        assert ctvae(["export", str(phantom_ct), "-o", str(tmp_path)]) == 3
        with pytest.raises(StartError, match="OUTPUT_IN_USE"):
            next(encode(phantom_ct, output=tmp_path))
        first.enter_inventory(Inventory((), ()))

    stderr = capsys.readouterr().err
    assert stderr.count(f"OUTPUT_IN_USE: process {os.getpid()} on ") == 2
    assert sorted(files(tmp_path)) == ["outcome.json", "result.json"]


def test_after_a_kill_the_next_run_says_so_and_removes_what_was_half_written(phantom_ct, tmp_path, capsys):
    hold = (
        "import sys, time; from pathlib import Path; from app.output_lock import output_lock\n"
        "with output_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE) as held:
        held.stdout.readline()
        held.send_signal(signal.SIGKILL)
    (tmp_path / "1.2").mkdir()
    (tmp_path / "1.2" / ".features.json.0123.partial").write_bytes(b"half")

    assert ctvae(["encode", str(phantom_ct), "-o", str(tmp_path)]) == 0

    assert f"KILLED_RUN: process {held.pid} on " in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.partial")) and not (tmp_path / LOCK_FILE).exists()


def test_a_run_after_an_ended_one_says_nothing(tmp_path, caplog):
    for _ in range(2):
        with output_lock(tmp_path) as killed:
            assert not killed
    assert not caplog.messages


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("command", "ledger"), [("encode", "outcome.json"), ("export", "outcome.export.json")])
def test_a_run_that_is_stopped_before_the_headers_are_read_says_so_in_its_ledger(
    phantom_ct, tmp_path, monkeypatch, capsys, command, ledger, sent
):
    monkeypatch.setattr("operators.read_study.read_file", lambda *_: os.kill(os.getpid(), sent))

    assert ctvae([command, str(phantom_ct), "-o", str(tmp_path)]) == 1

    found = json.loads((tmp_path / ledger).read_text())
    assert [(one["folder"], one["status"], one["reason"]) for one in found["series"]] == [(".", "failed", "LOST_RUN")]
    assert found["files_not_dicom"] is None
    said = capsys.readouterr().err
    assert "LOST_RUN: the run ended before the input was read" in said and "INTERRUPTED" in said
    if command == "encode":
        assert json.loads((tmp_path / "result.json").read_text())["series"]["failed"] == 1


def test_a_run_that_is_stopped_while_the_bundle_loads_leaves_its_own_ledger_and_not_an_earlier_one(
    phantom_ct, results, monkeypatch, capsys
):
    monkeypatch.setattr("app.open_pipeline.open_scan_bundle", lambda *_: os.kill(os.getpid(), signal.SIGTERM))

    assert ctvae(["encode", str(phantom_ct), "-o", str(results)]) == 1

    found = json.loads((results / "outcome.json").read_text())
    assert [(one["folder"], one["status"], one["reason"]) for one in found["series"]] == [(".", "failed", "LOST_RUN")]
    assert "INTERRUPTED" in capsys.readouterr().err


def test_a_wrong_call_leaves_the_ledger_of_an_earlier_run(phantom_ct, results):
    before = files(results)

    assert ctvae(["encode", str(phantom_ct), "-o", str(results), "--tap", "nothing"]) == 3

    assert files(results) == before


def test_a_run_that_could_not_start_leaves_no_ledger(tmp_path):
    with pytest.raises(StartError), Ledger(tmp_path):
        raise StartError("INPUT_NOT_A_FOLDER", "the input is not a folder")

    assert not files(tmp_path)


@pytest.mark.parametrize(("source", "target"), [("in", "in/out"), ("out/in", "out"), ("in", "in"), ("in", "link/out")])
def test_input_and_output_must_lie_apart(tmp_path, capsys, source, target):
    (tmp_path / source).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / source)

    assert ctvae(["encode", str(tmp_path / source), "-o", str(tmp_path / target)]) == 3
    assert ctvae(["export", str(tmp_path / source), "-o", str(tmp_path / target)]) == 3
    with pytest.raises(StartError, match="INPUT_AND_OUTPUT_OVERLAP"):
        next(encode(tmp_path / source, output=tmp_path / target))

    assert capsys.readouterr().err.count("INPUT_AND_OUTPUT_OVERLAP") == 2
    assert not files(tmp_path)


def test_a_run_that_finds_no_ct_names_the_reasons_of_what_was_skipped(tmp_path, capsys):
    def change(dataset, d):
        put(dataset, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])

    write_tiny_ct(tmp_path / "in", change=change)

    assert ctvae(["encode", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 2
    assert "1 other series (1 LOCALIZER)" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "result.json").read_text())["series"]["skipped"] == 1
