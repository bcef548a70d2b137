"""How the container starts: whose folders it takes, what it tells of itself, what it leaves for whom."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.packaging.layout import ENVIRONMENT, EXPORT
from app.packaging.start import main
from app.packaging.start.batch import CHALLENGE_RESULT, batch, flatten, mercure_settings, one_result
from app.packaging.start.conventions import Folders, folders
from app.packaging.start.describe import describe, shown
from operators.errors import RunFailed, StartError

MERCURE = {"MERCURE_IN_DIR": "/tmp/data", "MERCURE_OUT_DIR": "/tmp/output"}
MONAI = {"MONAI_INPUTPATH": "/m/in", "MONAI_OUTPUTPATH": "/m/out"}
KAAPANA = {"OPERATOR_IN_DIR": "/kaapana/in", "OPERATOR_OUT_DIR": "/kaapana/out"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Folders("map", Path("/var/holoscan/input"), Path("/var/holoscan/output"))),
        ({"HOLOSCAN_INPUT_PATH": "/in"}, Folders("map", Path("/in"), Path("/var/holoscan/output"))),
        (MONAI, Folders("monai", Path("/m/in"), Path("/m/out"))),
        (KAAPANA, Folders("kaapana", Path("/kaapana/in"), Path("/kaapana/out"))),
        (MERCURE, Folders("mercure", Path("/tmp/data"), Path("/tmp/output"))),
        (MONAI | MERCURE, Folders("mercure", Path("/tmp/data"), Path("/tmp/output"))),
    ],
)
def test_folders_are_those_of_the_caller(tmp_path: Path, variables: dict[str, str], expected: Folders):
    assert folders(ENVIRONMENT | variables, tmp_path) == expected


def test_a_mounted_input_and_no_other_word_is_grand_challenge(tmp_path: Path):
    (tmp_path / "input").mkdir()
    assert folders(ENVIRONMENT, tmp_path) == Folders("challenge", Path("/input"), Path("/output"))


def test_input_where_the_specification_has_it_goes_before_grand_challenge(tmp_path: Path):
    (tmp_path / "input").mkdir()
    (tmp_path / "var/holoscan/input").mkdir(parents=True)
    (tmp_path / "var/holoscan/input/slice.dcm").touch()
    assert folders(ENVIRONMENT, tmp_path).convention == "map"


def test_one_variable_of_a_pair_or_a_relative_path_is_refused(tmp_path: Path):
    with pytest.raises(StartError, match="MERCURE_OUT_DIR is not"):
        folders({"MERCURE_IN_DIR": "/tmp/data"}, tmp_path)
    with pytest.raises(StartError, match="expected an absolute path"):
        folders({"OPERATOR_IN_DIR": "get-input", "OPERATOR_OUT_DIR": "ctvae"}, tmp_path)


def test_mercure_gives_settings_in_its_task(tmp_path: Path):
    assert mercure_settings(tmp_path) is None
    settings = {"encode": {"taps": ["dense"]}}
    (tmp_path / "task.json").write_text(json.dumps({"id": "1", "process": {"settings": settings}}))
    found = mercure_settings(tmp_path)
    assert found is not None and found.sections == settings


@pytest.mark.parametrize("text", ["not JSON", "[]", '{"process": {"settings": [1]}}', '{"process": [1]}'])
def test_a_task_that_is_not_mercures_is_refused(tmp_path: Path, text: str):
    (tmp_path / "task.json").write_text(text)
    with pytest.raises(StartError, match=r"task\.json"):
        mercure_settings(tmp_path)


def test_settings_of_a_task_that_ctvae_does_not_know_end_the_run_with_code_3(tmp_path: Path, capsys):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "task.json").write_text('{"process": {"settings": {"encode": {"tap": ["dense"]}}}}')
    environment = ENVIRONMENT | {"MERCURE_IN_DIR": str(source), "MERCURE_OUT_DIR": str(target)}
    environment["HOLOSCAN_CONFIG_PATH"] = str(Path(__file__).parents[3] / "app" / "app.yaml")
    assert batch([], environment, tmp_path) == 3
    assert "task.json, line 1: encode" in capsys.readouterr().err


def test_mercure_finds_each_dicom_result_at_the_top(tmp_path: Path):
    (tmp_path / "1.2.3").mkdir()
    (tmp_path / "1.2.3" / "features.sr.dcm").write_bytes(b"sr")
    (tmp_path / "1.2.3" / "features.json").write_bytes(b"{}")
    flatten(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.2.3", "1.2.3#features.sr.dcm"]
    assert (tmp_path / "1.2.3#features.sr.dcm").read_bytes() == b"sr"


def test_grand_challenge_finds_the_features_of_its_one_case(tmp_path: Path):
    with pytest.raises(RunFailed, match="SEVERAL_CASES: 0 series"):
        one_result(tmp_path)
    (tmp_path / "2.25.1").mkdir()
    (tmp_path / "2.25.1" / "features.json").write_bytes(b"{}")
    one_result(tmp_path)
    assert (tmp_path / CHALLENGE_RESULT).read_bytes() == b"{}"


def image_in(root: Path) -> None:
    contents = {
        "etc/holoscan/app.json": "{}", "etc/holoscan/pkg.json": "[]", "etc/holoscan/sbom.json": "0",
        "var/holoscan/app.yaml": "", "opt/holoscan/app/__main__.py": "", "opt/holoscan/models/m/a": "",
        "opt/holoscan/docs/LICENSE": "",
    }  # fmt: skip
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_show_prints_the_manifests(tmp_path: Path, capsys):
    image_in(tmp_path)
    assert describe(["show", "app"], tmp_path) == 0
    assert capsys.readouterr().out == "{}"
    assert describe(["show"], tmp_path) == 0
    assert "app.json" in capsys.readouterr().out
    assert describe(["show", "shell"], tmp_path) == 3


def test_extract_copies_what_is_mounted_for_or_everything(tmp_path: Path, capsys):
    image_in(tmp_path)
    assert describe(["extract"], tmp_path) == 3
    assert "NO_EXPORT" in capsys.readouterr().err
    export = tmp_path / str(EXPORT)[1:]
    (export / "models").mkdir(parents=True)
    assert describe(["extract"], tmp_path) == 0
    assert [path.name for path in export.iterdir()] == ["models"]
    assert (export / "models" / "m" / "a").is_file()
    (export / "models").rename(tmp_path / "away")
    assert describe(["extract"], tmp_path) == 0
    assert sorted(path.name for path in export.iterdir()) == ["app", "config", "docs", "models"]
    assert sorted(path.name for path in (export / "config").iterdir()) == [
        "app.json", "app.yaml", "pkg.json", "sbom.json",
    ]  # fmt: skip


def test_env_hides_what_may_be_a_secret():
    assert shown({"CTVAE_SITE_KEY": "geheim", "A": "1"}) == ["A=1", "CTVAE_SITE_KEY=(hidden)"]


def test_a_command_of_ctvae_is_that_command(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ctvae ")
    assert main(["help"]) == 0
    assert "Exit code: 0 written" in capsys.readouterr().out


def test_a_plain_call_encodes_as_ctvae_encode_does(phantom_ct: Path, tmp_path: Path):
    from app.cli import main as command

    assert command(["encode", str(phantom_ct), "-o", str(tmp_path / "plain")]) == 0
    assert batch(["-i", str(phantom_ct), "-o", str(tmp_path / "image")], {}, tmp_path) == 0
    for name in ("features.json", "features.sr.dcm"):
        (plain,), (image,) = (tmp_path / "plain").glob(f"*/{name}"), (tmp_path / "image").glob(f"*/{name}")
        assert plain.read_bytes() == image.read_bytes()
