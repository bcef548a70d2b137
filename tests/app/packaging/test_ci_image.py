"""`.ci/image`: CI builds the image where the packaging changed, and not for every commit."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

STAND_IN = '#!/bin/sh\necho "$(basename "$0") $*" >>"$CALLS"\ntest "$(basename "$0")" != "$FAILS"\n'

Ci = Callable[..., list[str]]


@pytest.fixture
def ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ci:
    """Call `.ci/image` in a checkout with stand-ins for what takes minutes; return the programs that it called."""
    for name in ("app/packaging/Containerfile", "app/cli/map/build.py", "operators/other.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("first\n")
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "image", tmp_path / ".ci" / "image")
    for name in ("bin/make", "bin/apt-get", ".venv/bin/ctvae", ".venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)
    for words in (["init", "-q"], ["add", "app", "operators", ".ci"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("MAP", raising=False)

    def run(*arguments: str, fails: str = "", **environment: str) -> list[str]:
        calls = tmp_path / "calls"
        calls.write_text("")
        env = os.environ | {"CALLS": str(calls), "FAILS": fails} | environment
        ended = subprocess.run([tmp_path / ".ci" / "image", *arguments], env=env)
        assert (ended.returncode != 0) is bool(fails)
        return [line.split()[0] for line in calls.read_text().splitlines() if not line.startswith("apt-get")]

    return run


def test_the_image_is_built_where_the_packaging_is_another_than_the_one_that_was_checked(ci: Ci, tmp_path: Path):
    assert ci("if-changed") == ["make", "ctvae", "python"], "nothing was checked yet"
    assert ci("if-changed") == []
    (tmp_path / "operators" / "other.py").write_text("second\n")
    assert ci("if-changed") == []
    (tmp_path / "app" / "packaging" / "Containerfile").write_text("second\n")
    assert ci("if-changed") == ["make", "ctvae", "python"]
    assert ci("if-changed") == []


def test_the_image_is_built_when_it_is_asked_for(ci: Ci):
    ci()
    assert ci() == ci("if-changed", MAP="1") == ["make", "ctvae", "python"]


@pytest.mark.parametrize("fails", ["make", "ctvae", "python"])
def test_what_did_not_pass_is_not_written_down(ci: Ci, fails: str):
    assert ci("if-changed", fails=fails)[-1] == fails
    assert ci("if-changed") == ["make", "ctvae", "python"]
