"""The environment of our own child processes."""

from __future__ import annotations

import os
import subprocess
import sys

from models.child_environment import child_environment


def test_a_child_finds_our_code_and_what_its_parent_was_given(tmp_path, monkeypatch):
    (tmp_path / "given_to_the_parent.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code = "import models, given_to_the_parent, os; assert os.environ['OMP_NUM_THREADS'] == '1'"
    environment = child_environment(OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd="/", env=environment, check=False)
    assert done.returncode == 0


def test_without_a_path_of_the_parent_the_current_folder_is_not_searched(monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert "" not in child_environment()["PYTHONPATH"].split(os.pathsep)
