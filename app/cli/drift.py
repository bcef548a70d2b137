"""`ctvae drift`: whether the features of later series, or of one scanner, differ."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app.process import LogLevel, guarded


def command(
    table: Annotated[
        Path, typer.Argument(metavar="FEATURES", help="A table of `ctvae table`, or a folder of results.")
    ],
    by: Annotated[
        str,
        typer.Option("--by", help="Column: text (a group per value), or numbers or ISO dates (periods)."),
    ] = "manufacturer_model",
    labels: Annotated[
        Path | None, typer.Option("--labels", help="CSV that has the column, such as the date of each study.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="Compare to this group; default: the first or the largest.")
    ] = None,
    parts: Annotated[int, typer.Option("--parts", min=2, help="Periods that numbers or dates are cut into.")] = 4,
    tap: Annotated[str, typer.Option("--tap", help="The features: a layer that the table has.")] = "mu",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the permutations.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.WARN,
) -> int:
    """Compare the features of periods or scanners to those of a reference, one series per patient.

    Exit code 0 whether or not there is drift; 3: could not start.
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
            sys.stdout.write(json.dumps(asdict(found), indent=1) + "\n")
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
