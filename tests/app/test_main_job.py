"""A folder of CT in, VAE features out: the whole way, through the real graph."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import numpy as np
import pydicom
import pytest

from app import encode
from app.__main__ import main
from app.cli import main as ctvae
from operators.errors import CtvaeError
from operators.results.write_json import features_schema
from operators.sr.read import read_sr
from operators.synthetic.write_ct import affine_for, write_ct_series
from tests.support.checkout import ROOT
from tests.support.waiting import PATIENCE_S


@dataclass(frozen=True)
class Run:
    code: int
    output: Path
    stderr: str

    @property
    def outcomes(self) -> list[dict]:
        return json.loads((self.output / "outcome.json").read_text())["series"]

    @property
    def results(self) -> list[Path]:
        return sorted(path.parent for path in self.output.glob("*/features.json"))

    def files(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.output)): path.read_bytes() for path in self.output.glob("*/features.*")}


def run_program(output: Path, *arguments: str, program: tuple[str, ...] = ("-m", "app"), **environment: str) -> Run:
    command = [sys.executable, *program, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=240, check=False
    )
    return Run(done.returncode, output, done.stderr)


def run_graph(source: Path, output: Path) -> Run:
    return run_program(output, "-i", str(source), "-o", str(output))


def run_loop(source: Path, output: Path) -> Run:
    return Run(ctvae(["encode", str(source), "-o", str(output)]), output, "")


@pytest.fixture(scope="module")
def phantom_run(phantom_ct, tmp_path_factory) -> Run:
    return run_graph(phantom_ct, tmp_path_factory.mktemp("phantom_out"))


def test_the_phantom_gives_json_sr_and_ledger(phantom_run):
    assert phantom_run.code == 0, phantom_run.stderr
    assert [line["status"] for line in phantom_run.outcomes] == ["written"]
    assert sorted(path.name for path in phantom_run.results[0].iterdir()) == ["features.json", "features.sr.dcm"]
    assert (phantom_run.output / "result.json").is_file()


def test_features_json_is_what_its_schema_says(phantom_run):
    features = json.loads((phantom_run.results[0] / "features.json").read_text())

    jsonschema.validate(features, json.loads(features_schema()))
    assert features["reliability"]["n_reference"] >= 9
    assert features["taps"]["mu"]["length"] == features["taps"]["sigma"]["length"] >= 16
    assert np.std(features["taps"]["mu"]["values"]) > 0.05, "a constant is no feature"


def test_the_sr_holds_the_same_numbers_bit_for_bit(phantom_run):
    features = json.loads((phantom_run.results[0] / "features.json").read_text())
    report = read_sr(phantom_run.results[0] / "features.sr.dcm")

    for tap in ("mu", "sigma"):
        as_json = np.array(features["taps"][tap]["values"], np.float32)
        assert as_json.tobytes() == np.asarray(report.taps[tap], np.float32).tobytes()


def test_a_second_run_gives_the_same_bytes_whatever_the_files_are_called(phantom_ct, phantom_run, tmp_path):
    renamed = tmp_path / "in" / "elsewhere"
    renamed.mkdir(parents=True)
    for number, path in enumerate(sorted(phantom_ct.rglob("*"), reverse=True)):
        if path.is_file():
            shutil.copy(path, renamed / f"{number:x}")

    again = run_graph(renamed.parent, tmp_path / "out")

    assert again.files() == phantom_run.files()


def test_the_plain_loop_writes_the_same_bytes_as_the_graph(phantom_ct, phantom_run, tmp_path):
    assert run_loop(phantom_ct, tmp_path).files() == phantom_run.files()


def test_the_python_function_gives_the_same_mu(phantom_ct, phantom_run):
    (record,) = encode(phantom_ct)

    features = json.loads((phantom_run.results[0] / "features.json").read_text())
    assert record.series_instance_uid == features["series"]["series_instance_uid"]
    assert record.taps["mu"].values.dtype == np.float32
    assert np.array_equal(record.taps["mu"].values, np.array(features["taps"]["mu"]["values"], np.float32))


def test_it_starts_as_a_folder_with_the_sdks_variables(phantom_ct, phantom_run, tmp_path):
    elsewhere = {"HOLOSCAN_INPUT_PATH": str(phantom_ct), "HOLOSCAN_OUTPUT_PATH": str(tmp_path)}

    started = run_program(tmp_path, program=(str(ROOT / "app"),), HOLOSCAN_MODEL_PATH="models", **elsewhere)

    assert started.code == 0, started.stderr
    assert started.files() == phantom_run.files()


def test_monai_deploy_exec_does_the_same(phantom_ct, phantom_run, tmp_path):
    script = Path(sys.executable).with_name("monai-deploy")
    arguments = ["exec", "app", "-i", str(phantom_ct), "-o", str(tmp_path), "-m", "models", "-l", "ERROR"]

    done = subprocess.run([script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr
    assert Run(0, tmp_path, "").files() == phantom_run.files()


@pytest.mark.parametrize("name", ["cip_chest/ct64_dicom", "crlm_1004"])
def test_real_ct_goes_through_the_graph(shared_ct, tmp_path, name):
    run = run_graph(shared_ct(name), tmp_path)

    assert run.code == 0, run.stderr
    (folder,) = run.results
    features = json.loads((folder / "features.json").read_text())
    jsonschema.validate(features, json.loads(features_schema()))
    assert features["series"]["instances"]["count"] == features["geometry"]["shape"][0]
    patient = pydicom.dcmread(next(path for path in shared_ct(name).rglob("*.dcm")), stop_before_pixels=True)
    text = (folder / "features.json").read_text() + (run.output / "outcome.json").read_text() + run.stderr
    assert str(patient.PatientID) not in text or not str(patient.PatientID)


@pytest.fixture(scope="module")
def mixed_ct(phantom_ct, tmp_path_factory) -> Path:
    """A good series, one with a missing slice, a localizer, one with truncated pixels, a broken file, a text file."""
    folder = tmp_path_factory.mktemp("mixed")
    shutil.copytree(phantom_ct, folder / "good")
    hu = np.random.default_rng(3).integers(-1000, 1000, (8, 16, 16), np.int16)
    names = ("gap", "localizer", "truncated")
    paths = {
        name: write_ct_series(hu + number, affine_for(hu.shape, (5, 2, 2)), folder / name)
        for number, name in enumerate(names)
    }
    paths["gap"][3].unlink()
    for path in paths["localizer"]:
        header = pydicom.dcmread(path)
        header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        header.save_as(path)
    victim = paths["truncated"][2]
    victim.write_bytes(victim.read_bytes()[:-100])
    (folder / "broken.dcm").write_bytes(victim.read_bytes()[:300])
    (folder / "notes.txt").write_text("not DICOM")
    return folder


@pytest.fixture(scope="module")
def mixed_run(mixed_ct, tmp_path_factory) -> Run:
    return run_graph(mixed_ct, tmp_path_factory.mktemp("mixed_out"))


def test_one_bad_series_does_not_stop_the_others(mixed_run):
    ended = {line["folder"]: (line["status"], line["reason"]) for line in mixed_run.outcomes}

    assert mixed_run.code == 0, mixed_run.stderr
    assert ended == {
        "good": ("written", None),
        "gap": ("rejected", "MISSING_SLICE"),
        "localizer": ("skipped", "LOCALIZER"),
        "truncated": ("rejected", "TRUNCATED_PIXELS"),
        ".": ("rejected", "UNREADABLE_FILE"),
    }


def test_each_rejection_is_one_line_on_stderr(mixed_run):
    lines = [line for line in mixed_run.stderr.splitlines() if " rejected " in line]

    assert len(lines) == 3
    assert "Traceback" not in mixed_run.stderr


def test_only_the_good_series_left_files_and_none_is_half_written(mixed_run):
    assert len(mixed_run.results) == 1
    assert sorted(path.name for path in mixed_run.output.iterdir() if path.is_file()) == ["outcome.json", "result.json"]
    assert not list(mixed_run.output.rglob("*.partial"))


def test_the_loop_keeps_the_same_ledger_as_the_graph(mixed_ct, mixed_run, tmp_path):
    def ledger(run: Run) -> list[dict]:
        lines = [{key: value for key, value in line.items() if key != "seconds"} for line in run.outcomes]
        return sorted(lines, key=lambda line: line["series_instance_uid"])

    assert ledger(run_loop(mixed_ct, tmp_path)) == ledger(mixed_run)


def broken_bundle(folder: Path) -> Path:
    bundle = folder / "bundle"
    shutil.copytree(ROOT / "models" / "ct_vae", bundle)
    weights = bundle / "models" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    return bundle


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["-i", "none", "-o", "out"], 3, "INPUT_MISSING"),
        (["-i", "file", "-o", "out"], 3, "INPUT_NOT_A_FOLDER"),
        (["-i", "empty", "-o", "file/out"], 3, "OUTPUT_UNWRITABLE"),
        (["-i", "empty", "-o", "out", "-m", "none"], 3, "MODELS_MISSING"),
        (["-i", "empty", "-o", "out", "-m", "empty"], 3, "BUNDLE_INVALID"),
        (["-i", "empty", "-o", "out", "-m", "broken"], 3, "BUNDLE_INVALID"),
        (["-i", "empty", "-o", "out", "--nonsense"], 3, "USAGE"),
        (["-i", "empty", "-o", "out", "-c", "bad.yaml"], 3, "SETTINGS_INVALID"),
    ],
)
def test_a_run_that_cannot_start_says_why_in_one_line(tmp_path, monkeypatch, capsys, arguments, code, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "bad.yaml").write_text("encode: {tapes: []}")
    if "broken" in arguments:
        broken_bundle(tmp_path).rename("broken")

    try:
        ended = main(arguments)
    except SystemExit as stopped:
        ended = stopped.code

    stderr = capsys.readouterr().err
    assert ended == code
    assert named in stderr and len(stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "outcome.json").exists()


def test_an_unknown_tap_names_those_there_are(phantom_ct, tmp_path, capsys):
    code = ctvae(["encode", str(phantom_ct), "-o", str(tmp_path), "--tap", "nonsense"])

    stderr = capsys.readouterr().err
    assert code == 3
    assert "nonsense" in stderr and "dense" in stderr


def test_a_named_layer_is_written_beside_mu(phantom_ct, tmp_path):
    code = ctvae(["encode", str(phantom_ct), "-o", str(tmp_path), "--tap", "dense"])

    features = json.loads(Run(code, tmp_path, "").results[0].joinpath("features.json").read_text())
    assert list(features["taps"]) == ["mu", "sigma", "dense"]


@pytest.mark.parametrize("content", [{}, {"notes.txt": "no DICOM"}])
def test_a_folder_without_ct_is_exit_code_2_and_says_so(tmp_path, capsys, content):
    (tmp_path / "in").mkdir()
    for name, text in content.items():
        (tmp_path / "in" / name).write_text(text)

    code = ctvae(["encode", str(tmp_path / "in"), "-o", str(tmp_path / "out")])

    assert code == 2
    assert "NO_CT" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "outcome.json").read_text())["series"] == []


def test_debug_shows_the_traceback(tmp_path, capsys):
    main(["-i", str(tmp_path / "none"), "-o", str(tmp_path), "-l", "debug"])

    assert "Traceback" in capsys.readouterr().err


def test_inspect_writes_nothing_and_says_what_would_become_of_each(mixed_ct, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    code = ctvae(["inspect", str(mixed_ct), "--json"])

    inspected = json.loads(capsys.readouterr().out)
    assert code == 0 and not list(tmp_path.iterdir())
    status = {line["folder"]: line["status"] for line in inspected["series"]}
    assert status["good"] == "eligible" and status["gap"] == "rejected" and status["localizer"] == "skipped"


def test_a_series_that_is_rejected_now_keeps_no_result_of_an_earlier_run(phantom_ct, tmp_path):
    study, output = tmp_path / "study", tmp_path / "out"
    shutil.copytree(phantom_ct, study)
    assert run_loop(study, output).results
    sorted(study.iterdir())[10].unlink()

    again = run_loop(study, output)

    assert again.code == 2 and [line["reason"] for line in again.outcomes] == ["MISSING_SLICE"]
    assert sorted(path.name for path in output.iterdir()) == ["outcome.json", "result.json"]


def test_a_disk_that_fills_up_leaves_neither_of_the_two_files(phantom_ct, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("operators.results.atomic.os.fsync", full)
    with pytest.raises(CtvaeError, match="No space left"):
        list(encode(phantom_ct, output=tmp_path, on_outcome=raise_failure))

    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def raise_failure(outcome):
    if outcome.status == "failed":
        raise CtvaeError(outcome.reason, outcome.message)


def test_a_terminated_run_accounts_for_every_series_and_leaves_no_partial_file(mixed_ct, tmp_path):
    slow = (
        "import time, sys, operators.pipeline as r; run = r.Pipeline.run\n"
        "def late(self, candidate): print('at', flush=True); time.sleep(600); return run(self, candidate)\n"
        "r.Pipeline.run = late; from app.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", slow, "encode", str(mixed_ct), "-o", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as started:
        started.stdout.readline()
        started.terminate()
        code = started.wait(PATIENCE_S)

    assert code == 1
    assert {line["reason"] for line in Run(code, tmp_path, "").outcomes} == {"LOST_SERIES", "UNREADABLE_FILE"}


def test_a_terminated_graph_writes_its_ledger_and_leaves_no_unpacked_image(mixed_ct, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "temporary").mkdir()
    shutil.make_archive(str(tmp_path / "in" / "study"), "zip", mixed_ct)
    slow = (
        "import sys, operators.nodes as n; compute = n.StageOperator.compute\n"
        "def late(self, *context): print('at', flush=True); sys.stdin.read(); return compute(self, *context)\n"
        "n.StageOperator.compute = late; from app.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", slow, "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as started:
        started.stdout.readline()
        unpacked = [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]
        started.terminate()
        started.stdin.close()
        code = started.wait(PATIENCE_S)

    assert unpacked and code == 1
    assert "LOST_SERIES" in {line["reason"] for line in Run(code, tmp_path / "out", "").outcomes}
    assert list((tmp_path / "temporary").iterdir()) == []


def test_nobody_without_a_home_can_run_the_graph_and_nothing_is_reported_to_anybody(phantom_ct, tmp_path):
    home = tmp_path / "home"
    home.mkdir()

    run = run_program(tmp_path / "out", "-i", str(phantom_ct), "-o", str(tmp_path / "out"), HOME=str(home))

    assert run.code == 0, run.stderr
    assert not [path for path in home.rglob("*") if "onnxruntime" in str(path) or "Microsoft" in str(path)]
    assert (
        run_program(tmp_path / "again", "-i", str(phantom_ct), "-o", str(tmp_path / "again"), HOME="/proc/none").code
        == 0
    )


def test_a_demo_that_could_not_start_shows_no_earlier_results(phantom_ct, tmp_path, capsys):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "outcome.json").write_text('{"series": []}')

    code = ctvae(["demo", str(tmp_path / "none"), "-o", str(tmp_path)])

    assert code == 3
    assert "what happened" not in capsys.readouterr().out


def test_an_interrupted_run_accounts_for_every_series(mixed_ct, tmp_path, monkeypatch):
    def interrupted(self, series):
        raise KeyboardInterrupt

    monkeypatch.setattr("operators.pipeline.Pipeline.run", interrupted)

    run = run_loop(mixed_ct, tmp_path)

    assert run.code == 1
    assert {line["reason"] for line in run.outcomes} == {"LOST_SERIES", "UNREADABLE_FILE"}
    assert len(run.outcomes) == 5


def test_a_graph_that_reads_nothing_is_a_failure(phantom_ct, tmp_path, monkeypatch, capsys):
    from app.application import CtVaeApplication

    monkeypatch.setattr(CtVaeApplication, "run", lambda self: None)

    assert main(["-i", str(phantom_ct), "-o", str(tmp_path)]) == 1
    assert "LOST_RUN" in capsys.readouterr().err
    assert [line["reason"] for line in Run(1, tmp_path, "").outcomes] == ["LOST_RUN"]


def test_a_killed_run_leaves_no_ledger_of_an_earlier_one(phantom_ct, tmp_path, monkeypatch):
    run_loop(phantom_ct, tmp_path)
    monkeypatch.setattr("app.ledger.Ledger.close", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))

    run_loop(phantom_ct, tmp_path)

    assert not (tmp_path / "outcome.json").exists()
