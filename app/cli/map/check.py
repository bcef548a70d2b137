"""`ctvae map check`: does an image keep what the MAP specification and a hospital's security staff demand?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import JsonOption, LogLevelOption
from app.cli.print_json import print_json
from app.process import LogLevel, guarded

if TYPE_CHECKING:
    from app.packaging.check.image import Image
    from models.bundle.check import Verdict


WIDTH = 22  # of the longest codes


class CallerName(StrEnum):
    """By whose conventions the image is called."""

    plain = "plain"
    map = "map"
    mercure_monai = "mercure-monai"
    mercure = "mercure"
    kaapana = "kaapana"
    xnat = "xnat"
    grand_challenge = "grand-challenge"


def command(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="OCI archive, or output of docker save.")],
    run_it: Annotated[
        bool, typer.Option("--run", help="Also run the image: read-only root, uid 4321, no network, no capabilities.")
    ] = False,
    callers: Annotated[
        list[CallerName] | None,
        typer.Option(
            "--as", help="Also call the image as this platform does, and compare the results. May be repeated."
        ),
    ] = None,
    scan: Annotated[
        Path | None, typer.Option("--input", help="CT that the runs encode; default: a small phantom.")
    ] = None,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Check an image; print a line per point with its code: what was found, and if it is wrong, what was expected.

    Needs no daemon; --run and --as need bubblewrap. Exit code 0: every point holds; 1: one does not; 3: the archive
    cannot be read or run.
    """

    def run() -> int:
        from app.console import verdict_lines
        from app.packaging.check.image import open_image

        good = True
        with open_image(archive) as image:
            verdicts = []
            for verdict in _verdicts(image, run_it, [one.name for one in callers or []], scan):
                verdicts.append(verdict)
                good = good and verdict.good is not False
                if not as_json:  # a line when it is known: runs take their time
                    sys.stdout.write(verdict_lines([verdict], WIDTH))
                    sys.stdout.flush()
            if as_json:
                print_json({"verdicts": [asdict(one) for one in verdicts]})
        return 0 if good else 1

    return guarded(run, log_level)


def _verdicts(image: Image, run_it: bool, callers: list[str], scan: Path | None) -> Iterator[Verdict]:
    from app.packaging.check.check import check_archive, check_container
    from app.packaging.check.container import open_container
    from app.settings import check_input

    if not run_it and not callers:
        yield from check_archive(image)
        return
    with open_container(image, None if scan is None else check_input(scan)) as container:
        yield from check_archive(image)
        yield from check_container(container, runs=run_it, calls=[f"CALL_{name.upper()}" for name in callers])
