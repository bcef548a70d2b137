"""The group of commands: what a wrong call looks like, and that a command is imported only when it is called."""

from __future__ import annotations

import subprocess
import sys

import pytest

from app.cli import COMMANDS, main
from app.cli import bundle as bundle_group
from app.cli.lazy import LazyGroup
from tests.support.checkout import ROOT

HEAVY = {"numpy", "pydicom", "torch", "monai", "onnxruntime", "holoscan", "highdicom"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nonesuch"], "USAGE: no command 'nonesuch'; expected one of encode, inspect,"),
        (["bundle", "nonesuch"], "USAGE: no command 'nonesuch'; expected one of show, check,"),
        (["--nonesuch"], "USAGE: No such option: --nonesuch; see ctvae --help"),
        (["encode"], "USAGE: Missing argument 'IN'; see ctvae encode --help"),
        (["bundle", "show", "--nonesuch"], "USAGE: No such option: --nonesuch; see ctvae bundle show --help"),
        (["encode", "in", "-o", "out", "--device", "abacus"], "USAGE: Invalid value for '--device'"),
        (["schema", "more"], "USAGE: Got unexpected extra argument(s) (more); see ctvae schema --help"),
    ],
)
def test_a_wrong_call_is_one_line_and_code_3(capsys, arguments, line):
    assert main(arguments) == 3
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith(line)


@pytest.mark.parametrize("arguments", [[], ["bundle"]])
def test_a_group_without_a_command_shows_its_help_on_stderr_and_is_code_3(capsys, arguments):
    assert main(arguments) == 3
    called = capsys.readouterr()
    assert main([*arguments, "--help"]) == 0
    assert (called.out, called.err) == ("", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("package", "commands"), [("app.cli", COMMANDS), ("app.cli.bundle", bundle_group.COMMANDS)], ids=["ctvae", "bundle"]
)
def test_every_command_that_is_listed_is_there(package, commands):
    group = LazyGroup("group", package, commands)
    with group.make_context("group", ["--"], resilient_parsing=True) as context:
        assert [name for name in commands if group.get_command(context, name).name != name] == []


@pytest.mark.parametrize("arguments", [["--help"], ["bundle", "--help"], ["encode", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    program = (
        f"import sys\nfrom app.cli import main\nassert main({arguments!r}) == 0\n"
        f"print('loaded:', *sorted({HEAVY!r} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].strip() == "loaded:"
