"""`ctvae map stage`: the folder that the image is built from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.process import LogLevel, guarded


def command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Does not exist yet.")],
    image: Annotated[str, typer.Option(help="Name with tag under which the image will be known.")] = "ctvae:latest",
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.WARN,
) -> int:
    """Write the folder that the image is built from. `monai-deploy package FOLDER/app` takes it, too."""

    def run() -> int:
        from app.packaging.stage import stage

        sys.stdout.write(f"{stage(folder, image)}\n")
        return 0

    return guarded(run, log_level)
