"""`ctvae inspect`: what is in a folder, and what would become of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from app.process import LogLevel, guarded


def command(
    folder: Annotated[Path, typer.Argument(metavar="IN", help="Folder with CT, ZIP archive, NIfTI, NRRD or MHA file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in the form of outcome.json.")] = False,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="Settings; default: app.yaml.")] = None,
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.ERROR,
) -> int:
    """What is in a folder: studies, series, geometry, verdict and reason. Reads of DICOM headers alone, writes nothing.

    Exit code 0: something is eligible; 2: nothing is; 1: something failed; 3: could not start.
    """

    def run() -> int:
        from app.console import list_outcomes, progress
        from app.exit_codes import exit_code
        from app.inspect import inspect_folder
        from app.settings import check_input, load_settings
        from operators.results.write_json import outcome_document

        settings = load_settings(config)
        with progress("reading headers") as report:
            inspected = inspect_folder(check_input(folder), settings, report)
        outcomes = [inspection.outcome for inspection in inspected]
        if as_json:
            document = outcome_document(outcomes)
            for line in document["series"]:
                del line["seconds"]
            sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        else:
            list_outcomes(outcomes, [inspection.description for inspection in inspected])
        return exit_code(outcomes)

    return guarded(run, log_level)
