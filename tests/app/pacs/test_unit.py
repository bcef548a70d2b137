"""The systemd unit: systemd understands all of it, it allows no more than is needed, and it fits the program."""

from __future__ import annotations

import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest

from app.exit_codes import COULD_NOT_START
from tests.support.checkout import ROOT, skip_or_fail

UNIT = ROOT / "integrations" / "systemd" / "ctvae-listen.service"
MOST_EXPOSED = 15
"""Of `systemd-analyze security`, in tenths: what it is now."""


@pytest.fixture
def analyze():
    if shutil.which("systemd-analyze") is None:
        skip_or_fail("no systemd-analyze; run .ci/programs")

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)

    return run


def test_systemd_finds_nothing_wrong_with_it(analyze, tmp_path):
    there = tmp_path / UNIT.name
    there.write_text(UNIT.read_text().replace("/opt/ctvae/.venv/bin/ctvae", sys.executable))
    ended = analyze("verify", there)
    assert (ended.returncode, ended.stderr) == (0, "")
    there.write_text(there.read_text() + "Surprise=1\n")
    assert "Surprise" in analyze("verify", there).stderr


def test_it_is_exposed_no_more_than_it_was(analyze):
    ended = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", UNIT)
    assert ended.returncode == 0, ended.stdout[-200:]


def test_a_start_that_cannot_succeed_is_not_repeated():
    read = RawConfigParser(strict=False)
    read.read_string("\n".join(line for line in UNIT.read_text().splitlines() if not line.startswith("#")))
    assert read["Service"]["RestartPreventExitStatus"] == str(COULD_NOT_START)
    assert read["Service"]["ExecStart"].split()[1:] == ["listen", "-c", "/etc/ctvae/app.yaml"]
