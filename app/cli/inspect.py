"""`ctvae inspect`: the content of a folder, and what would happen to it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import ConfigOption, InputArgument, LogLevelOption
from app.process import LogLevel, guarded


def command(
    folder: InputArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in the form of outcome.json.")] = False,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="Also decode every slice; the verdicts are then those of encode.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Print UID, reason and findings of each series, and each bad file.")
    ] = False,
    models: Annotated[
        Path | None,
        typer.Option("-m", "--model", help="With --pixels: bundle or folder of bundles; default: the shipped one."),
    ] = None,
    config: ConfigOption = None,
    log_level: LogLevelOption = LogLevel.ERROR,
) -> int:
    """List the series of a folder with geometry and verdict, from DICOM headers alone. Writes nothing.

    Exit code 0: something is eligible; 2: nothing is; 1: something failed; 3: could not start.
    """

    def run() -> int:
        from app.console import progress
        from app.exit_codes import exit_code
        from app.inspect import inspect_folder
        from app.inspect_table import print_inspections
        from app.open_bundle import open_scan_bundle
        from app.settings import check_input, load_settings
        from operators.results.write_json import outcome_document

        settings = load_settings(config)
        source = check_input(folder)
        preprocessing = open_scan_bundle(models, settings).preprocessing if pixels else None
        with progress("reading headers") as on_file:
            inspected = inspect_folder(source, settings, on_file, preprocessing)
        outcomes = [inspection.outcome for inspection in inspected]
        if as_json:
            document = outcome_document(outcomes, judged_by="pixels" if pixels else "headers")
            for line in document["series"]:
                del line["seconds"]
            sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        else:
            print_inspections(inspected, verbose=verbose, decoded=pixels)
        return exit_code(outcomes)

    return guarded(run, log_level)
