"""Train a VAE on a folder or a list of CT and write it as a bundle: `python -m app.research.train DATA -o BUNDLE`."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from app.research.card import licence_text, model_card
from app.research.scans import Scan, cached_windows, find_scans, split_by_patient, with_margin
from models.bundle import Bundle, BundleError, Preprocessing, save_bundle
from operators.types import CtvaeError, SeriesError, StartError

if TYPE_CHECKING:
    from models.training import Trained, TrainingSettings

logger = logging.getLogger(__name__)

WindowArray = NDArray[np.floating[Any]]
Report = Callable[[str, float], None]

_LINE_EVERY_S = 30.0

PREPROCESSING: Mapping[str, Preprocessing] = {
    "ct_vae": Preprocessing("window", (32, 96, 96), (4.0, 4.0, 4.0), (-1000.0, 1000.0)),
    "question": Preprocessing("resize", (32, 256, 256), None, (-1000.0, 1000.0)),
}
"""What each architecture is given where nothing else is asked for."""


def train_bundle(
    data: Path,
    output: Path,
    settings: TrainingSettings,
    preprocessing: Preprocessing,
    *,
    root: Path | None = None,
    cache: Path = Path(".cache", "windows"),
    held_out: float = 0.2,
    version: str = "0.1.0",
    command: str = "",
    notes: str = "",
    report: Report = lambda text, fraction: None,
) -> Bundle:
    """Read, split, train, measure, and write the bundle with its card.

    Args:
        data: a folder, or a list (see `find_scans`), with its paths relative to `root`.
        output: the bundle's folder, whose name becomes the bundle's.
        settings: of the training.
        preprocessing: for training now and for inference ever after.
        root: see `data`.
        cache: where the windows are kept; they are images of patients.
        held_out: part of the patients whose split no list fixes.
        version: of the bundle.
        command: what is written into the card.
        notes: limits of these data for the card, a Markdown list.
        report: called with what is being done and how much of it is, 0 to 1.

    Raises:
        StartError: no data, or no such split.
        BundleError: the architecture cannot be built, or the bundle not be written.
    """
    import torch

    from models.export import encoder_onnx, tap_specs
    from models.training import evaluate, train
    from models.vae import all_parameters, build_vae

    parameters = all_parameters(
        settings.architecture, dict(settings.parameters) | {"window_voxels": preprocessing.window_voxels}
    )
    settings = replace(settings, parameters=parameters)
    build_vae(settings.architecture, parameters)
    training, testing = split_by_patient(find_scans(data, root), held_out, settings.seed)
    windows = _read(training, with_margin(preprocessing), cache, report)
    measured = _read(testing, preprocessing, cache, report)
    trained = train(list(windows.values()), settings, lambda at: report(_line(at), at.fraction))
    figures = evaluate(trained.vae, np.concatenate(list(measured.values())), preprocessing.window_hu)
    bundle = Bundle(
        path=output,
        name=output.resolve().name,
        version=version,
        architecture=settings.architecture,
        architecture_parameters=parameters,
        preprocessing=preprocessing,
        taps=tap_specs(trained.vae, preprocessing.spacing_mm),
        weights_sha256="",
        training={
            "command": command,
            "torch": torch.__version__,
            "data": [_case(scan, "train", windows) for scan in training if scan.key in windows]
            + [_case(scan, "held_out", measured) for scan in testing if scan.key in measured],
            **_course(trained, settings),
            "figures": asdict(figures),
        },
    )
    weights = {name: tensor.numpy() for name, tensor in trained.vae.state_dict().items()}
    return save_bundle(
        bundle,
        weights=weights,
        onnx=encoder_onnx(trained.vae),
        card=model_card(bundle, notes),
        licence=licence_text(bundle.training),
        monai=_monai_keys(bundle),
    )


def _read(scans: tuple[Scan, ...], preprocessing: Preprocessing, cache: Path, report: Report) -> dict[str, WindowArray]:
    """Windows by the scan's key; what does not pass is logged and left out."""
    windows: dict[str, WindowArray] = {}
    for done, scan in enumerate(scans):
        report(f"reading volume {done + 1} of {len(scans)}", done / len(scans))
        try:
            windows[scan.key] = cached_windows(scan, preprocessing, cache)
        except SeriesError as error:
            logger.warning("a volume of patient %s is left out: %s", scan.patient, error)
    if not windows:
        raise StartError("NO_DATA", f"none of {len(scans)} volumes could be read; see the log for the reasons")
    return windows


def _course(trained: Trained, settings: TrainingSettings) -> dict[str, Any]:
    """How the training went: its settings, and some thirty lines of its log."""
    every = max(1, len(trained.history) // 30)
    kept = [*trained.history[:-1:every], trained.history[-1]]
    return {
        "settings": {
            key: dict(value) if isinstance(value, Mapping) else value for key, value in asdict(settings).items()
        },
        "steps": trained.steps,
        "elapsed_s": round(trained.elapsed_s, 1),
        "history": [{key: round(value, 5) for key, value in asdict(at).items()} for at in kept],
    }


def _case(scan: Scan, split: str, windows: Mapping[str, WindowArray]) -> dict[str, Any]:
    return {"patient": scan.patient, "split": split, "source": scan.source, "windows": len(windows[scan.key])}


def _monai_keys(bundle: Bundle) -> dict[str, Any]:
    """What MONAI's metadata schema wants beside the data format."""
    installed = {name: importlib.metadata.version(name) for name in ("monai", "torch", "numpy", "onnxruntime")}
    return {
        "changelog": {bundle.version: "trained"},
        "monai_version": installed["monai"],
        "pytorch_version": installed["torch"].partition("+")[0],
        "numpy_version": installed["numpy"],
        "required_packages_version": {"onnxruntime": installed["onnxruntime"]},
        "name": bundle.name,
        "task": "Features of CT by a variational autoencoder",
        "description": "Encoder and decoder of a VAE; the posterior mean describes a window of a CT scan.",
        "authors": "the ctvae project",
        "copyright": "Apache-2.0; see LICENSE for the origins of the training data",
        "data_source": "; ".join(sorted({case["source"] for case in bundle.training["data"] if case["source"]})),
        "data_type": "dicom, nifti",
        "intended_use": "Research only. Not for clinical use.",
    }


def _line(at: Any) -> str:
    return (
        f"step {at.step}  loss {at.loss:.4f}  rmse {at.rmse:.4f}  KL {at.kl:.1f} nats  "
        f"active {at.active} of {at.latents}"
    )


def main(
    data: Annotated[Path, typer.Argument(help="folder of DICOM and NIfTI, or a CSV: path, patient, split, source")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the bundle's folder")],
    arch: Annotated[str, typer.Option(help=f"one of {', '.join(PREPROCESSING)}")] = "ct_vae",
    minutes: Annotated[float, typer.Option(min=0.01, help="of training, reading not counted")] = 20.0,
    steps: Annotated[int | None, typer.Option(min=1, help="train for so many steps, not for a time")] = None,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="faster on CPUs with AMX")] = False,
    root: Annotated[Path | None, typer.Option(help="folder that a list's paths are relative to")] = None,
    cache: Annotated[Path, typer.Option(help="where windows are kept between runs")] = Path(".cache", "windows"),
    held_out: Annotated[float, typer.Option(min=0.01, max=0.9, help="part of the patients, where no list says")] = 0.2,
    version: Annotated[str, typer.Option(help="of the bundle")] = "0.1.0",
    notes: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="limits, for the model card")] = None,
) -> None:
    """Train a VAE on CT and write a bundle."""
    # Threads that wait must not spin: beside another process a step took 2.7 s with spinning, 0.7 without (two cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from models.training import TrainingSettings

    console = Console(stderr=True)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console)])
    length = f"--steps {steps}" if steps else f"--minutes {minutes:g}"
    command = f"python -m app.research.train DATA -o {output.name} --arch {arch} {length} --batch {batch} --seed {seed}"
    try:
        if arch not in PREPROCESSING:
            raise StartError("UNKNOWN_ARCHITECTURE", f"no architecture {arch!r}; there are {', '.join(PREPROCESSING)}")
        settings = TrainingSettings(
            arch,
            seed=seed,
            minutes=None if steps else minutes,
            steps=steps,
            batch=batch,
            bfloat16=bfloat16,
            threads=threads,
        )
        with _progress(console) as report:
            bundle = train_bundle(
                data,
                output,
                settings,
                PREPROCESSING[arch],
                root=root,
                cache=cache,
                held_out=held_out,
                version=version,
                command=f"{command} --bfloat16" if bfloat16 else command,
                notes=notes.read_text(encoding="utf-8") if notes else "",
                report=report,
            )
    except (CtvaeError, BundleError, FloatingPointError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(3) from error
    figures = bundle.training["figures"]
    console.print(
        f"{bundle.name} {bundle.version}: reconstruction {figures['mae_hu']:.1f} HU on {figures['windows']} held-out "
        f"windows, {figures['active']} of {len(figures['kl'])} units active"
    )


@contextmanager
def _progress(console: Console) -> Iterator[Report]:
    """A bar on a terminal; elsewhere, as in a log, a line every half minute."""
    if not console.is_terminal:
        last_s = [-_LINE_EVERY_S]

        def line(text: str, fraction: float) -> None:
            if time.monotonic() - last_s[0] >= _LINE_EVERY_S or fraction >= 1:
                last_s[0] = time.monotonic()
                console.print(f"{fraction:4.0%}  {text}", markup=False, highlight=False, soft_wrap=True)

        yield line
        return
    columns = (SpinnerColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("finding scans", total=1.0)
        yield lambda text, fraction: progress.update(task, description=text, completed=fraction)


if __name__ == "__main__":
    typer.run(main)
