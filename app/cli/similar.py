"""`ctvae similar`: the series most similar to a given one."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.process import LogLevel, guarded


class Metric(StrEnum):
    """How distance is measured."""

    standardised = "standardised"
    whitened = "whitened"
    cosine = "cosine"


def command(
    series: Annotated[str, typer.Argument(metavar="SERIES", help="A SeriesInstanceUID of the table.")],
    index: Annotated[Path, typer.Option("--index", help="A table of `ctvae table`, or a folder of results.")],
    most: Annotated[int, typer.Option("-n", "--number", min=1, help="How many neighbours.")] = 10,
    tap: Annotated[str, typer.Option("--tap", help="The features: a layer that the table has.")] = "mu",
    metric: Annotated[Metric, typer.Option("--metric", help="Of standardised or whitened features, or cosine.")] = (
        Metric.standardised
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.WARN,
) -> int:
    """List the series whose features are nearest to those of one, the nearest first."""

    def run() -> int:
        from app.explain.data.results import read_place
        from app.explain.similar import similar
        from operators.printable import printable

        found = similar(read_place(index), series, tap=tap, metric=metric.value, most=most)
        if as_json:
            sys.stdout.write(json.dumps([asdict(neighbour) for neighbour in found], indent=1) + "\n")
            return 0
        sys.stdout.write("distance  nearer than  patient  series\n")
        for neighbour in found:
            who = "same" if neighbour.same_patient else "another"
            part = f" part {neighbour.part}" if neighbour.part else ""
            name = printable(neighbour.series_instance_uid + part)
            sys.stdout.write(f"{neighbour.distance:8.3f}  {neighbour.nearer_than:11.1%}  {who:<7}  {name}\n")
        return 0

    return guarded(run, log_level)
