"""`ctvae explain`: what the features are related to, and what not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import FeaturesArgument, LogLevelOption, TableTapOption
from app.process import LogLevel, guarded

if TYPE_CHECKING:
    from app.explain.report.section import Section


def command(
    table: FeaturesArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for report.html, its CSV files and JSON.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", help="CSV of labels: series_instance_uid, patient_id or another key, then a column per label."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="The scans (folder, ZIP, or output of cohort), for pictures and controls."),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(
            "-m",
            "--model",
            "--bundle",
            help="The bundle that encoded the features; with --data, default: the shipped one.",
        ),
    ] = None,
    positive: Annotated[
        Path | None,
        typer.Option("--positive", help="File with one series UID per line: images that have a property."),
    ] = None,
    negative: Annotated[
        Path | None, typer.Option("--negative", help="The same for images that do not have it.")
    ] = None,
    tap: TableTapOption = "mu",
    covariates: Annotated[
        str | None,
        typer.Option("--covariates", help="Columns to adjust for: a,b,c, or none; default: body size and acquisition."),
    ] = None,
    all_series: Annotated[
        bool,
        typer.Option(
            "--all-series", help="Use all series of a patient, not only one; whole patients are then permuted."
        ),
    ] = False,
    permutations: Annotated[
        int, typer.Option("--permutations", min=1000, help="Number of permutations for the max-T correction.")
    ] = 1000,
    umap: Annotated[bool, typer.Option("--umap", help="Also draw the map by UMAP; takes half a minute more.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of permutations, folds and samples.")] = 0,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Test every feature against what is known about the scans, and write a report that says what holds up.

    Exit code 0: the report is written; 3: could not start.
    """

    def run() -> int:
        from app.console import progress
        from app.explain.data.images import look_at
        from app.explain.data.join_labels import join_labels
        from app.explain.data.question import ask
        from app.explain.data.results import cohort_key, read_place
        from app.explain.run import Further, explain, heading_of
        from app.explain.sections.ten_images import read_groups
        from app.open_bundle import open_bundle
        from app.settings import load_settings
        from operators.errors import StartError

        _require_libraries(umap)
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
            covariates=_names(covariates),
            all_series=all_series,
            permutations=permutations,
            seed=seed,
        )
        _print_notes(heading_of(question).notes)
        with progress("explaining") as report:
            model = open_bundle(models) if models or data else None
            images = None
            if data and model:
                images = look_at(
                    *(question, data, model, settings),
                    lambda done, total: report(done, total, "looking at the images"),
                )
            further = Further(images, model, groups, umap)
            sections = explain(question, further, output, lambda text: report(0, 1, text))
        _print_found(sections, output)
        return 0

    return guarded(run, log_level)


def _require_libraries(umap: bool) -> None:
    """Check that the extra is installed before anything is read."""
    from app.extras import require

    for library in ("jinja2", "matplotlib", "combatlearn", "threadpoolctl", *(["umap"] if umap else [])):
        require(library)


def _names(covariates: str | None) -> list[str] | None:
    """Return the columns of `a,b,c`; nothing for `none`, and None, the default ones, where the option is not given."""
    return None if covariates is None else [name for name in covariates.split(",") if name not in ("", "none")]


def _print_notes(notes: Sequence[str]) -> None:
    from operators.printable import printable

    for note in notes:
        sys.stderr.write(printable(f"note: {note}") + "\n")


def _print_found(sections: Sequence[Section], output: Path) -> None:
    """Print what each section found, and where the report lies."""
    from app.explain.report.write import PAGE
    from operators.printable import printable

    for section in sections:
        sys.stdout.write(printable(f"{section.title} {section.found}") + "\n")
    sys.stdout.write(f"Written: {PAGE} in {output.name}\n")
