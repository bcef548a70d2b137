"""`ctvae map stage`: the folder that the image is built from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import LogLevelOption
from app.process import LogLevel, guarded


def command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; it must not exist yet.")],
    image: Annotated[str, typer.Option(help="Name and tag that the image will have.")] = "ctvae:latest",
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Write the folder that the image is built from. `monai-deploy package FOLDER/app` accepts it too."""

    def run() -> int:
        from app.packaging.stage import stage

        sys.stdout.write(f"{stage(folder, image)}\n")
        return 0

    return guarded(run, log_level)
