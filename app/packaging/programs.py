"""Programs that the build calls: found, run, and what they said where they fail."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from operators.errors import RunFailed, StartError

LAST_LINES: Final = 5


def find(*names: str, package: str) -> str:
    """Return the first program that is installed.

    Raises:
        StartError: `NO_PROGRAM`, with the Debian package that has it.
    """
    for name in names:
        found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if found:
            return found
    raise StartError("NO_PROGRAM", f"{' or '.join(names)} is not installed; apt-get install {package}")


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] = {},
    without: Sequence[str] = (),
    folder: Path | None = None,
) -> str:
    """Run a program and return what it wrote to stdout.

    Args:
        command: program and arguments.
        environment: variables beside those of this process.
        without: variables of this process that it does not get.
        folder: to run in.

    Raises:
        RunFailed: `BUILD_FAILED`, with the last lines that it said.
    """
    variables = {name: value for name, value in os.environ.items() if name not in without} | dict(environment)
    ended = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True)  # noqa: S603
    if ended.returncode:
        said = " | ".join((ended.stderr or ended.stdout).strip().splitlines()[-LAST_LINES:])
        raise RunFailed("BUILD_FAILED", f"{Path(command[0]).name} ended with {ended.returncode}: {said}")
    return ended.stdout
