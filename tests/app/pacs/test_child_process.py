"""The worker's child runs the code of its parent."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.pacs.child_process import CHILD, ChildProcess
from app.pacs.worker_settings import ChildLimits
from operators.errors import StartError
from tests.support.checkout import ROOT

WHOSE = """
import importlib.util, json
print(json.dumps({"error": {"reason": "FOUND", "message": importlib.util.find_spec("app").origin}}), flush=True)
"""


def test_the_child_runs_its_parents_code_without_an_installation_and_in_a_folder_with_another_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In the container nothing of ours is installed: `python3 /opt/holoscan/app` finds it, but a child would not."""
    (tmp_path / "app.py").touch()
    monkeypatch.chdir(tmp_path)
    child = ChildProcess(ChildLimits(), program=("-S", CHILD[0], "-c", WHOSE))
    with pytest.raises(StartError) as found:
        child.start(lambda: None)
    assert found.value.message == str(ROOT / "app" / "__init__.py")
