"""`ctvae table`: many results into one table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import LogLevelOption, TokenFileOption, split_taps
from app.process import LogLevel, guarded


def command(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Output folders, features.json or SR files, or URLs of DICOMweb servers.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File for the table; its name ends in .parquet or .csv.")
    ],
    taps: Annotated[
        list[str] | None,
        typer.Option("--taps", "--tap", help="Layers besides mu and sigma, such as dense,block3.max. May be repeated."),
    ] = None,
    long: Annotated[bool, typer.Option("--long", help="Write one row per tap and dimension.")] = False,
    with_paths: Annotated[
        bool,
        typer.Option("--with-paths", help="Add the folder of each series in its input; it may hold a patient's name."),
    ] = False,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Allow results of several models, and several results of one series.")
    ] = False,
    token_file: TokenFileOption = None,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Write the features of many series as one table, one row per series or part."""

    def run() -> int:
        from app.console import progress
        from app.extras import require
        from app.table.make import TableSettings, make_table
        from app.table.sources import local_places

        if output.suffix == ".parquet":
            require("pyarrow")
        settings = TableSettings(split_taps(taps), long, with_paths, mixed)
        with progress("reading results") as on_file, local_places(places, token_file, on_file) as folders:
            made = make_table(folders, output, settings, on_file)
        for name, reason in made.passed.broken:
            sys.stderr.write(f"{name}: {reason}\n")
        passed = made.passed
        counts = {
            "found twice": passed.repeated,
            "replaced by a later SR": passed.replaced,
            "no results": passed.others,
            "damaged": len(passed.broken),
        }
        extra = "".join(f", {count} {what}" for what, count in counts.items() if count)
        sys.stdout.write(f"{made.rows} rows, {made.columns} columns in {output.name}{extra}\n")
        return 1 if passed.broken else 0

    return guarded(run, log_level)
