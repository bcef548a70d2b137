"""Programs that the build calls: found, run, and what they said where they fail."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from operators.errors import RunFailed, StartError

LAST_LINES: Final = 5


def find(name: str, package: str) -> str:
    """Return the path of a program.

    Raises:
        StartError: `NO_PROGRAM`, with the Debian package that has it: it is not installed.
    """
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise StartError("NO_PROGRAM", f"{name} is not installed; apt-get install {package}")
    return found


def run(command: Sequence[str]) -> str:
    """Run a program with its arguments and return what it wrote to stdout.

    Raises:
        RunFailed: `BUILD_FAILED`, with the last lines that it said.
    """
    ended = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    if ended.returncode:
        tail = " | ".join((ended.stderr or ended.stdout).strip().splitlines()[-LAST_LINES:])
        raise RunFailed("BUILD_FAILED", f"{Path(command[0]).name} ended with {ended.returncode}: {tail}")
    return ended.stdout
