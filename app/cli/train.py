"""`ctvae train`: from a folder or list of CT to a bundle."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import (
    ConfigOption,
    LogLevelOption,
    NewBundleOption,
    RootOption,
    ScanLabelsOption,
    ScansArgument,
    VersionOption,
)
from app.process import LogLevel, guarded

if TYPE_CHECKING:
    from app.research.train.recipe import Plan
    from models.spec import Bundle


def command(
    data: ScansArgument,
    output: NewBundleOption,
    arch: Annotated[
        str | None, typer.Option(help="Architecture: question, ct_vae or another one; default: ct_vae.")
    ] = None,
    init: Annotated[Path | None, typer.Option(help="Bundle whose weights to start from (fine-tuning).")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="File that says how to train (train.yaml); see docs/training.md.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Minutes to train, not counting reading; default: 20.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps to train, instead of minutes.")] = None,
    batch: Annotated[int | None, typer.Option(help="Windows per pass.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of weights, order and augmentation, not of the splits.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from OUTPUT.checkpoint if it exists.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show split, windows, memory and time; train and write nothing.")
    ] = False,
    root: RootOption = None,
    labels: ScanLabelsOption = None,
    cache: Annotated[
        Path, typer.Option(help="Folder that keeps windows for later runs; they are images of patients.")
    ] = Path(".cache", "windows"),
    version: VersionOption = "0.1.0",
    notes: Annotated[
        Path | None, typer.Option(help="Markdown list of the limits of the data, for the model card.")
    ] = None,
    config: ConfigOption = None,
    log_level: LogLevelOption = LogLevel.INFO,
) -> int:
    """Train a VAE on CT and write it as a bundle. OUTPUT.log shows the progress."""
    # Waiting threads must not spin: beside another process a step took 2.7 s with spinning, 0.7 without (two cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    def run() -> int:
        from app.console import progress
        from app.open_bundle import bundle_errors
        from app.research.train.describe import Wording
        from app.research.train.train import TrainingPaths, dry_run_training, train_bundle
        from app.settings import load_settings

        given = {"architecture": arch, "minutes": minutes, "steps": steps, "batch": batch, "seed": seed}
        with bundle_errors():
            plan = _plan(recipe, given | {"threads": threads}, root, init)
            where = Path(plan.data.root) if plan.data.root else None
            wording = Wording(version, _command_text(output, recipe, init, given), _text(notes))
            places = TrainingPaths(data, output, where, cache, labels)
            reading = load_settings(config)
            if dry_run:
                found = dry_run_training(places, plan, wording=wording, settings=reading)
                sys.stdout.write("\n".join(found.lines()) + "\n")
                return 0
            with progress("finding scans", silent=not _first_process()) as show:

                def report(text: str, fraction: float) -> None:
                    show(fraction, 1, text)

                bundle = train_bundle(places, plan, wording=wording, resume=resume, settings=reading, report=report)
        if bundle is not None:
            _summary(bundle)
        return 0

    return guarded(run, log_level)


def _plan(file: Path | None, given: Mapping[str, object], root: Path | None, init: Path | None) -> Plan:
    from app.research.train.recipe import Recipe, load_recipe, make_plan
    from models.bundle.store import find_bundle, load_bundle

    recipe = load_recipe(file) if file else Recipe()
    start = load_bundle(find_bundle(init)) if init else None
    return make_plan(recipe, training=given, data={"root": str(root) if root else None}, start=start)


def _command_text(output: Path, recipe: Path | None, init: Path | None, given: Mapping[str, object]) -> str:
    """Return the command as the model card shows it: names instead of paths."""
    words = ["ctvae train DATA", f"-o {output.name}"]
    words += [f"--recipe {recipe.name}"] if recipe else []
    words += [f"--init {init.name}"] if init else []
    named = {"architecture": "arch"}
    words += [f"--{named.get(key, key)} {value}" for key, value in given.items() if value is not None]
    return " ".join(words)


def _text(notes: Path | None) -> str:
    from operators.errors import StartError
    from operators.system_error import cannot_read

    try:
        return notes.read_text(encoding="utf-8") if notes else ""
    except (OSError, UnicodeDecodeError) as error:
        raise StartError("BAD_NOTES", cannot_read("the notes", error, "text in UTF-8")) from error


def _summary(bundle: Bundle) -> None:
    figures = bundle.training.figures
    assert figures is not None
    sys.stdout.write(
        f"{bundle.name} {bundle.version}: {bundle.training.steps} steps; on {figures.windows} windows of test "
        f"patients reconstruction {figures.mae_hu:.1f} HU, {figures.active} of {len(figures.kl)} active\n"
    )


def _first_process() -> bool:
    """Return whether this is the process that reports, among all that train together."""
    return all(os.environ.get(rank, "0") == "0" for rank in ("LOCAL_RANK", "RANK", "NODE_RANK", "SLURM_PROCID"))
