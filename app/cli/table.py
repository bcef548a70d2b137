"""`ctvae table`: many results into one table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.process import LogLevel, guarded


def command(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH…",
            help="features.json, SR files, folders of them (an output folder), or the URL of a DICOMweb server.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The table: a name in .parquet or .csv.")],
    taps: Annotated[
        list[str] | None, typer.Option("--taps", "--tap", help="Layers to write beside mu and sigma: dense,block3.max.")
    ] = None,
    long: Annotated[bool, typer.Option("--long", help="One row per tap and dimension.")] = False,
    with_paths: Annotated[
        bool, typer.Option("--with-paths", help="Write the folder of each series in its input; it may hold a name.")
    ] = False,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Allow results of several models, and several of one series.")
    ] = False,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="Holds the bearer token of the DICOMweb server.")
    ] = None,
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.WARN,
) -> int:
    """Write the features of many series as one table, one row per series or part."""

    def run() -> int:
        from app.cli.encode import split_taps
        from app.console import progress
        from app.extras import require
        from app.table.make import TableSettings, make_table
        from app.table.sources import local_places

        if output.suffix == ".parquet":
            require("pyarrow")
        settings = TableSettings(split_taps(taps or []), long, with_paths, mixed)
        with progress("reading results") as on_file, local_places(places, token_file, on_file) as folders:
            made = make_table(folders, output, settings, on_file)
        for name, reason in made.passed.broken:
            sys.stderr.write(f"{name}: {reason}\n")
        passed = made.passed
        counts = {
            "met twice": passed.repeated,
            "replaced by a later SR": passed.replaced,
            "no results": passed.others,
            "damaged": len(passed.broken),
        }
        extra = "".join(f", {count} {what}" for what, count in counts.items() if count)
        sys.stdout.write(f"{made.rows} rows, {made.columns} columns in {output.name}{extra}\n")
        return 1 if passed.broken else 0

    return guarded(run, log_level)
