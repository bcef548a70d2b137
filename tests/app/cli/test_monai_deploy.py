"""The `monai-deploy` command that `make env` installs: the SDK's own verbs, and `exec`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import holoscan_cli.__main__ as sdk
import pytest

from app.cli import monai_deploy as command

MONAI_DEPLOY = Path(sys.executable).parent / "monai-deploy"
ECHO = """
import json, os, sys
print(json.dumps({"argv": sys.argv[1:], "pid": os.getpid(), "input": os.environ.get("HOLOSCAN_INPUT_PATH")}))
sys.exit(7)
"""
Finished = subprocess.CompletedProcess[str]
Executed = Callable[..., list[str]]


def monai_deploy(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> Finished:
    command = [MONAI_DEPLOY, *arguments]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)


def application(folder: Path, source: str, name: str = "__main__.py") -> Path:
    folder.mkdir()
    (folder / name).write_text(source)
    return folder


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    return application(tmp_path / "echo", ECHO)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Executed:
    """Return the command line that `exec` becomes."""

    class Became(Exception):
        pass

    def execve(program: str, line: list[str], environment: dict[str, str]) -> None:
        raise Became(line)

    def run(*arguments: str) -> list[str]:
        with pytest.raises(Became) as became:
            command.main([str(MONAI_DEPLOY), *arguments])
        return list(became.value.args[0])

    monkeypatch.setattr(os, "execve", execve)
    return run


@pytest.mark.parametrize("arguments", [(), ("--help",)], ids=["none", "help"])
def test_the_help_names_exec_beside_the_verbs_of_the_sdk(arguments: tuple[str, ...]):
    shown = monai_deploy(*arguments)
    assert shown.returncode == 0
    assert "{package,run,version,nics}" in shown.stdout
    assert "\n  exec " in shown.stdout


@pytest.mark.parametrize(
    "line", ["package --help", "run --help", "version", "-l DEBUG version", "package", "nonesuch", "-l nonesuch"]
)
def test_every_other_verb_is_the_sdks_own(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", [str(MONAI_DEPLOY), *line.split()])

    def ended(main: Callable[[list[str]], object]) -> tuple[object, str, str]:
        try:
            code = main(sys.argv)
        except SystemExit as end:
            code = end.code
        return code or 0, *capsys.readouterr()

    ours = ended(command.main)
    assert ours == ended(sdk.main)
    assert ours[1] or ours[2]


def test_version_knows_that_the_kit_is_monai_deploy():
    assert "MONAI Deploy App SDK:   4.0.0" in monai_deploy("version").stdout


@pytest.mark.parametrize(
    ("line", "passed_on"),
    [
        ("exec APP", ""),
        ("exec APP -i IN -o OUT -m MODELS", "-i IN -o OUT -m MODELS"),
        ("exec -i IN -o OUT -m MODELS APP", "-i IN -o OUT -m MODELS"),
        ("exec APP --input IN --output=OUT --model MODELS", "-i IN -o OUT -m MODELS"),
        ("exec APP --models MODELS --workdir WORK", "-m MODELS -w WORK"),
        ("exec APP -l debug", "-l DEBUG"),
        ("-l DEBUG exec APP", "-l DEBUG"),
        ("--log-level=DEBUG exec APP", "-l DEBUG"),
        ("exec APP -i IN --config app.yaml -t host:8001", "-i IN --config app.yaml -t host:8001"),
        ("exec APP -- --help", "--help"),
    ],
)
def test_exec_passes_flags_on_to_the_application(echo: Path, line: str, passed_on: str, executed: Executed):
    assert executed(*line.replace("APP", str(echo)).split()) == [sys.executable, str(echo), *passed_on.split()]


def test_exec_takes_paths_with_spaces(tmp_path: Path):
    ended = monai_deploy("exec", application(tmp_path / "my app", ECHO), "-i", "my scans")
    assert json.loads(ended.stdout)["argv"] == ["-i", "my scans"]


def test_what_exec_passes_on_is_what_the_sdk_parses(
    tmp_path: Path, echo: Path, executed: Executed, monkeypatch: pytest.MonkeyPatch
):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.deploy.core.arg_parser import parse_args

    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "models").mkdir()
    line = ["-i", "in", "-o", "out", "-m", "models", "-w", "work", "-l", "ERROR"]
    parsed = vars(parse_args(executed("exec", str(echo), *line)[1:]))
    expected = {"input": "in", "output": "out", "model": "models", "workdir": "work"}
    assert {name: str(parsed[name]) for name in expected} == {k: str(tmp_path / v) for k, v in expected.items()}
    assert parsed["log_level"] == "ERROR"


def test_exec_ends_with_the_exit_code_of_the_application(echo: Path):
    assert monai_deploy("exec", echo).returncode == 7


def test_exec_leaves_paths_in_the_environment_to_the_application(echo: Path):
    told = json.loads(monai_deploy("exec", echo, HOLOSCAN_INPUT_PATH="IN").stdout)
    assert (told["input"], told["argv"]) == ("IN", [])


def test_exec_becomes_the_application_so_that_signals_reach_it(echo: Path):
    with subprocess.Popen([MONAI_DEPLOY, "exec", echo], stdout=subprocess.PIPE, text=True) as started:
        told = json.loads(started.communicate()[0])
    assert told["pid"] == started.pid


@pytest.mark.parametrize(
    ("named", "started"),
    [
        ("main/__main__.py", "main"),
        ("by_name", "by_name/app.py"),
        ("by_name/app.py", "by_name/app.py"),
        ("other/job.py", "other/job.py"),
    ],
)
def test_exec_takes_a_folder_or_a_python_file(
    tmp_path: Path, named: str, started: str, executed: Executed, monkeypatch: pytest.MonkeyPatch
):
    application(tmp_path / "main", ECHO)
    application(tmp_path / "by_name", ECHO, name="app.py")
    application(tmp_path / "other", ECHO, name="job.py")
    monkeypatch.chdir(tmp_path)
    assert executed("exec", named) == [sys.executable, str(tmp_path / started)]


def test_an_application_that_imports_itself_by_name_gets_the_copy_that_was_named(tmp_path: Path):
    # The installed `app` is this project's own; the one on the command line has the same name.
    app = application(tmp_path / "app", "import sys; sys.path.pop(0); from app import HERE; print(HERE)")
    (app / "__init__.py").write_text("HERE = __file__")
    for named in (app, app / "__main__.py"):
        assert monai_deploy("exec", named).stdout.strip() == str(app / "__init__.py")


def test_exec_accepts_and_ignores_the_choices_that_the_sdk_dropped(echo: Path):
    ended = monai_deploy("exec", echo, "--graph", "x", "--datastore", "y", "--executor", "z")
    assert json.loads(ended.stdout)["argv"] == []
    assert [line.split()[2] for line in ended.stderr.splitlines()] == ["--graph", "--datastore", "--executor"]


@pytest.mark.parametrize(
    "line", ["exec", "exec DOE_JOHN", "exec folder", "exec folder/notes.txt", "exec echo -l LOUD", "exec echo -i"]
)
@pytest.mark.usefixtures("echo")
def test_exec_that_could_not_start_says_so_in_one_line_and_ends_with_3(
    tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    application(tmp_path / "folder", "", name="notes.txt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        command.main([str(MONAI_DEPLOY), *line.split()])
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (3, "")
    assert said.err.startswith("USAGE: ") and said.err.endswith("; see monai-deploy exec --help\n")
    assert said.err.count("\n") == 1
    assert "DOE_JOHN" not in said.err
