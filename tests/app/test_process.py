"""SIGTERM: it ends a run in order, also where a library swallows what it raises."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from app.process import LogLevel, guarded, stop_if_asked


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_ends_a_run_with_exit_code_1(capsys):
    def run() -> int:
        terminate()
        return 0

    assert guarded(run, LogLevel.INFO) == 1
    assert "INTERRUPTED" in capsys.readouterr().err


@pytest.mark.parametrize("asked", [True, False])
def test_a_sigterm_that_was_swallowed_is_known_to_who_asks(asked):
    def run() -> int:
        with suppress(KeyboardInterrupt):  # as the graph's C++ does
            terminate()
        if asked:
            stop_if_asked()
        return 0

    assert guarded(run, LogLevel.INFO) == (1 if asked else 0)
    assert guarded(lambda: stop_if_asked() or 0, LogLevel.INFO) == 0, "the next run in this process is another one"
