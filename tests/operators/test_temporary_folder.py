"""A temporary folder is gone after its block, also where a signal comes in the middle of that."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from app.process import stoppable
from operators.temporary_folder import temporary_folder


@pytest.fixture
def slow_removal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """SIGTERM comes while the first folder is removed; the list has a name per attempt."""
    remove, attempts = shutil.rmtree, list[str]()

    def interrupted(path: str, *given: object, **named: object) -> None:
        attempts.append(path)
        if len(attempts) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        remove(path, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    return attempts


@pytest.mark.parametrize("stopped_before", [False, True])
def test_a_signal_during_the_removal_leaves_nothing_and_still_stops(slow_removal, stopped_before):
    with pytest.raises(KeyboardInterrupt), stoppable(), temporary_folder() as folder:
        (folder / "slice").write_bytes(b"of a patient")
        if stopped_before:
            raise KeyboardInterrupt
    assert not folder.exists() and slow_removal == [str(folder)] * 2


def test_a_folder_of_the_library_would_stay(slow_removal):
    with pytest.raises(KeyboardInterrupt), stoppable(), tempfile.TemporaryDirectory() as name:
        pass
    Path(name).rmdir()
