"""Which files and folders are fsynced: what a power loss would leave, for tests that cannot lose the power."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def syncs(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Record the path of each file and folder that is fsynced from now on, in the returned list."""
    paths, fsync = list[Path](), os.fsync

    def recorded(handle: int) -> None:
        paths.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", recorded)
    return paths
