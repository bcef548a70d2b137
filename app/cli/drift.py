"""`ctvae drift`: whether the features of later series, or of one scanner, differ."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import FeaturesArgument, JsonOption, LogLevelOption, TableTapOption
from app.cli.print_json import print_json
from app.process import LogLevel, guarded


def command(
    table: FeaturesArgument,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            help="Column that defines the groups: each text is a group; numbers or ISO dates are cut into periods.",
        ),
    ] = "manufacturer_model",
    labels: Annotated[
        Path | None, typer.Option("--labels", help="CSV with that column, for example the date of each study.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            help="Group that the others are compared with; default: the first period, or the largest group.",
        ),
    ] = None,
    parts: Annotated[int, typer.Option("--parts", min=2, help="Number of periods.")] = 4,
    tap: TableTapOption = "mu",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the permutations.")] = 0,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Compare the features of periods or scanners with those of a reference, one series per patient.

    Exit code 0: compared, whether or not there is drift; 3: could not start.
    """

    def run() -> int:
        from app.explain.data.join_labels import join_labels
        from app.explain.data.results import cohort_key, read_place
        from app.explain.drift import LEAST, drift
        from app.settings import load_settings
        from operators.printable import printable

        features = read_place(table)
        if labels:
            site_key = load_settings().privacy.site_key or cohort_key(table)
            features = join_labels(features, labels, site_key).table
        found = drift(features, by, tap=tap, reference=reference, parts=parts, seed=seed)
        if as_json:
            print_json(asdict(found))
            return 0
        lines = [f"reference: {found.reference} ({found.reference_patients} patients)"]
        lines.append("distance  p      p corrected  dimensions changed  patients  group")
        for group in found.groups:
            numbers = f"{group.distance:8.2f}  {group.p:.3f}  {group.p_corrected:11.3f}  {len(group.changed):18d}"
            lines.append(f"{numbers}  {group.patients:8d}  {group.group}")
        if found.left_out:
            lines.append(f"fewer than {LEAST} patients, not compared: {', '.join(found.left_out)}")
        sys.stdout.write("\n".join(map(printable, lines)) + "\n")
        return 0

    return guarded(run, log_level)
