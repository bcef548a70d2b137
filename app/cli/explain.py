"""`ctvae explain`: what the features follow, and what they do not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.process import LogLevel, guarded


def command(
    table: Annotated[
        Path, typer.Argument(metavar="FEATURES", help="A table of `ctvae table`, or a folder of results.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for report.html, its CSV files and JSON.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", help="CSV with series_instance_uid, patient_id or another key, and a column per label."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="The scans (folder, ZIP, or output of cohort): pictures, controls."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", "-m", help="The bundle that encoded them; with --data default: shipped.")
    ] = None,
    positive: Annotated[
        Path | None,
        typer.Option("--positive", help="A file with a series UID per line: images that have it."),
    ] = None,
    negative: Annotated[Path | None, typer.Option("--negative", help="Likewise: images that do not have it.")] = None,
    tap: Annotated[str, typer.Option("--tap", help="The features in question: a layer that the table has.")] = "mu",
    covariates: Annotated[
        str | None,
        typer.Option("--covariates", help="Columns to account for: a,b,c, or none; default: body size, acquisition."),
    ] = None,
    all_series: Annotated[
        bool, typer.Option("--all-series", help="Use all series of a patient; whole patients are then permuted.")
    ] = False,
    permutations: Annotated[int, typer.Option("--permutations", min=1000, help="For max-T.")] = 1000,
    umap: Annotated[bool, typer.Option("--umap", help="Draw the map by UMAP too; takes half a minute more.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of permutations, folds and samples.")] = 0,
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.WARN,
) -> int:
    """Correlate features with what is known about the scans, and write an honest report.

    Exit code 0: the report is written; 3: could not start.
    """

    def run() -> int:
        from app.console import progress
        from app.explain.data.images import look_at
        from app.explain.data.join_labels import join_labels
        from app.explain.data.question import ask
        from app.explain.data.results import cohort_key, read_place
        from app.explain.report.write import PAGE
        from app.explain.run import Further, explain, heading_of
        from app.explain.sections.ten_images import read_groups
        from app.extras import require
        from app.open_bundle import open_bundle
        from app.settings import load_settings
        from operators.errors import StartError
        from operators.printable import printable

        for library in ("jinja2", "matplotlib", "combatlearn", "threadpoolctl", *(["umap"] if umap else [])):
            require(library)
        if (positive is None) != (negative is None):
            raise StartError("BAD_GROUPS", "give both --positive and --negative, or neither")
        settings = load_settings()
        features = read_place(table)
        site_key = settings.privacy.site_key or cohort_key(table, data)
        joined = join_labels(features, labels, site_key) if labels else None
        groups = read_groups(features, positive, negative) if positive and negative else None
        question = ask(
            features,
            joined,
            tap=tap,
            covariates=None
            if covariates is None
            else [name for name in covariates.split(",") if name not in ("", "none")],
            all_series=all_series,
            permutations=permutations,
            seed=seed,
        )
        for note in heading_of(question).notes:
            sys.stderr.write(printable(f"note: {note}") + "\n")
        with progress("explaining") as report:
            model = open_bundle(bundle) if bundle or data else None
            images = None
            if data and model:
                images = look_at(
                    question,
                    data,
                    model,
                    settings,
                    lambda done, total: report(done, total, "looking at the images"),
                )
            further = Further(images, model, groups, umap)
            sections = explain(question, further, output, lambda text: report(0, 1, text))
        for section in sections:
            sys.stdout.write(printable(f"{section.title} {section.found}") + "\n")
        sys.stdout.write(f"Written: {PAGE} in {output.name}\n")
        return 0

    return guarded(run, log_level)
