"""`ctvae similar`: the series most similar to a given one."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import JsonOption, LogLevelOption, MostOption, TableTapOption
from app.cli.print_json import print_json
from app.process import LogLevel, guarded


class Metric(StrEnum):
    """How distance is measured."""

    standardised = "standardised"
    whitened = "whitened"
    cosine = "cosine"


def command(
    series: Annotated[str, typer.Argument(metavar="SERIES", help="SeriesInstanceUID in the table.")],
    index: Annotated[Path, typer.Option("--index", help="Table of `ctvae table`, or folder of results.")],
    most: MostOption = 10,
    tap: TableTapOption = "mu",
    metric: Annotated[
        Metric, typer.Option("--metric", help="Distance: Euclidean on standardised or on whitened features, or cosine.")
    ] = (Metric.standardised),
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """List the series whose features are nearest to those of a given one, the nearest first."""

    def run() -> int:
        from app.explain.data.results import read_place
        from app.explain.similar import similar
        from operators.printable import printable

        found = similar(read_place(index), series, tap=tap, metric=metric.value, most=most)
        if as_json:
            print_json([asdict(neighbour) for neighbour in found])
            return 0
        sys.stdout.write("distance  nearer than  patient  series\n")
        for neighbour in found:
            who = "same" if neighbour.same_patient else "another"
            part = f" part {neighbour.part}" if neighbour.part else ""
            name = printable(neighbour.series_instance_uid + part)
            sys.stdout.write(f"{neighbour.distance:8.3f}  {neighbour.nearer_than:11.1%}  {who:<7}  {name}\n")
        return 0

    return guarded(run, log_level)
