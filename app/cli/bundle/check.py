"""`ctvae bundle check`: whether a bundle is intact, gives the numbers it should, and has active units."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from app.cli.options import BundleOrShippedArgument, JsonOption, LogLevelOption
from app.cli.print_json import print_json
from app.process import LogLevel, guarded


def command(
    path: BundleOrShippedArgument = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Accept a bundle that learned little: few active units, or the same image for all scans."
        ),
    ] = False,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Check that a bundle is intact, reproduces its golden values, and has active units.

    Exit code 0: usable; 3: not usable, and the last line says why.
    """

    def run() -> int:
        from app.console import verdict_lines
        from app.open_bundle import bundle_errors, open_bundle
        from models.bundle.check import ACTIVE_UNITS, RECONSTRUCTION, check_bundle
        from operators.errors import StartError

        bundle = open_bundle(path)
        with bundle_errors():
            verdicts = list(check_bundle(bundle))
        if as_json:
            document = {
                "name": bundle.name,
                "version": bundle.version,
                "verdicts": [asdict(verdict) for verdict in verdicts],
            }
            print_json(document)
        else:
            sys.stdout.write(verdict_lines(verdicts))
        learned = (ACTIVE_UNITS, RECONSTRUCTION)
        bad = [verdict for verdict in verdicts if verdict.good is False and not (force and verdict.question in learned)]
        if bad:
            found = "; ".join(f"{verdict.question}: {verdict.detail}" for verdict in bad)
            hint = "; --force accepts it" if all(verdict.question in learned for verdict in bad) else ""
            raise StartError("BUNDLE_REFUSED", f"{bundle.name} {bundle.version}: {found}{hint}")
        return 0

    return guarded(run, log_level)
