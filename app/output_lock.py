"""One run per output folder: a second run is told who holds it, and the run after a killed one is told so too."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from app.process import starting
from operators.errors import StartError

logger = logging.getLogger(__name__)

LOCK_FILE: Final = ".ctvae.lock"
_HOLDER_BYTES: Final = 4096


KILLED_RUN: Final = (
    "KILLED_RUN: %s was killed while it wrote into this folder; its finished series are complete, the others are lost"
)


@contextmanager
def output_lock(output: Path, after_a_kill: str = KILLED_RUN) -> Iterator[bool]:
    """Hold the lock of an output folder while the block runs.

    The system releases it when the process ends, however it ends; a killed run leaves its name in the file.

    Args:
        output: an existing folder.
        after_a_kill: message about a killed run, with a placeholder for its name.

    Yields:
        Whether the previous run was killed.

    Raises:
        StartError: `OUTPUT_IN_USE`, naming the holder; `NOT_ACCESSIBLE`.
    """
    path = output / LOCK_FILE
    with starting():
        handle = _locked(path)
        killed = _text(handle)
        os.truncate(handle, 0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"process": os.getpid(), "host": platform.node(), "started_at": now}
        os.pwrite(handle, json.dumps(holder).encode(), 0)
    if killed:
        logger.warning(after_a_kill, _named(killed))
    try:
        yield bool(killed)
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _locked(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            text = f"{_named(_text(handle))} is writing into {path.parent}; wait until it ends, or give another folder"
            os.close(handle)
            raise StartError("OUTPUT_IN_USE", text) from error
        except OSError as error:
            logger.warning("the output folder cannot be locked (%s); run only one command at a time", error.strerror)
            return handle
        if _is_at(handle, path):
            return handle
        os.close(handle)  # its holder removed it after we opened it and before we locked it


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _text(handle: int) -> bytes:
    return os.pread(handle, _HOLDER_BYTES, 0)


def _named(holder: bytes) -> str:
    """Return who wrote the lock file, in words."""
    try:
        found = json.loads(holder)
        return f"process {found['process']} on {found['host']}, started at {found['started_at']},"
    except (ValueError, LookupError, TypeError):
        return "another run"
