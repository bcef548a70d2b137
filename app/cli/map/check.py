"""`ctvae map check`: does an image keep what the MAP specification and a hospital's security staff demand?"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app.process import LogLevel, guarded


def command(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="OCI archive, or what docker save writes.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.WARN,
) -> int:
    """Check an image, one line per point: its code, and what was found, expected and to be done.

    Needs no daemon. Exit code 0: every point holds; 1: one does not; 3: the archive cannot be read.
    """

    def run() -> int:
        from app.console import verdict_lines
        from app.packaging.check.check import check_archive
        from app.packaging.check.image import open_image

        with open_image(archive) as image:
            verdicts = list(check_archive(image))
        if as_json:
            sys.stdout.write(json.dumps({"verdicts": [asdict(one) for one in verdicts]}, indent=1) + "\n")
        else:
            sys.stdout.write(verdict_lines(verdicts))
        return 1 if any(one.good is False for one in verdicts) else 0

    return guarded(run, log_level)
