"""Waiting for something to happen: a limit that only a failing test reaches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 120.0
"""Limit of whatever a test waits for: enough for a machine that is slow or stalls, and paid only where a test fails."""


def until(done: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Return as soon as something is so; fail where it never is."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"it did not happen within {seconds:g} s"
        time.sleep(0.02)
