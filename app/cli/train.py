"""`ctvae train`: from a folder or list of CT to a bundle."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.process import LogLevel, guarded

if TYPE_CHECKING:
    from app.research.train.recipe import Plan
    from models.spec import Bundle


def command(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="Folder of DICOM and NIfTI, or a CSV: path, patient, split, source, labels."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="Folder of the new bundle, which is named after it. Replaces a bundle there, with its certificate.",
        ),
    ],
    arch: Annotated[str | None, typer.Option(help="question, ct_vae or another architecture; default: ct_vae.")] = None,
    init: Annotated[Path | None, typer.Option(help="Bundle to fine-tune, for a small cohort.")] = None,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="train.yaml; see docs/training.md.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Minutes to train, without reading; default: 20.")] = None,
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
    root: Annotated[Path | None, typer.Option(help="Folder that a list's paths are relative to.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV: series_instance_uid, patient or path, then columns of labels.")
    ] = None,
    cache: Annotated[
        Path, typer.Option(help="Folder that keeps windows between runs; they are images of patients.")
    ] = Path(".cache", "windows"),
    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "0.1.0",
    notes: Annotated[Path | None, typer.Option(help="Limits of the data, for the model card: a Markdown list.")] = None,
    settings: Annotated[
        Path | None,
        typer.Option("--settings", help="Settings whose selection and geometry apply to the scans; default: app.yaml."),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.INFO,
) -> int:
    """Train a VAE on CT and write it as a bundle. OUTPUT.log beside it shows the progress."""
    # Waiting threads must not spin: beside another process a step took 2.7 s with spinning, 0.7 without (two cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    def run() -> int:
        from app.console import progress
        from app.open_bundle import bundle_errors
        from app.research.train.describe import Wording
        from app.research.train.train import Places, dry_run_training, train_bundle
        from app.settings import load_settings

        given = {"architecture": arch, "minutes": minutes, "steps": steps, "batch": batch, "seed": seed}
        with bundle_errors():
            plan = _plan(config, given | {"threads": threads}, root, init)
            where = Path(plan.data.root) if plan.data.root else None
            wording = Wording(version, _command_text(output, config, init, given), _text(notes))
            places = Places(data, output, where, cache, labels)
            reading = load_settings(settings)
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


def _plan(config: Path | None, given: Mapping[str, object], root: Path | None, init: Path | None) -> Plan:
    from app.research.train.recipe import Recipe, load_recipe, make_plan
    from models.bundle.store import find_bundle, load_bundle

    recipe = load_recipe(config) if config else Recipe()
    start = load_bundle(find_bundle(init)) if init else None
    return make_plan(recipe, training=given, data={"root": str(root) if root else None}, start=start)


def _command_text(output: Path, config: Path | None, init: Path | None, given: Mapping[str, object]) -> str:
    """Return the command as the model card shows it: names instead of paths."""
    words = ["ctvae train DATA", f"-o {output.name}"]
    words += [f"--config {config.name}"] if config else []
    words += [f"--init {init.name}"] if init else []
    named = {"architecture": "arch"}
    words += [f"--{named.get(key, key)} {value}" for key, value in given.items() if value is not None]
    return " ".join(words)


def _text(notes: Path | None) -> str:
    from operators.errors import StartError

    try:
        return notes.read_text(encoding="utf-8") if notes else ""
    except (OSError, UnicodeDecodeError) as error:
        raise StartError("BAD_NOTES", f"cannot read the notes ({type(error).__name__}); expected UTF-8") from error


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
