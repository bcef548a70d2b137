"""`ctvae bundle import-keras`: an encoder that was trained in Keras → a bundle."""

from __future__ import annotations

import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.start import LogLevel, guarded

if TYPE_CHECKING:
    from models.bundle import Preprocessing
    from models.network import Size

logger = logging.getLogger(__name__)


class Fit(StrEnum):
    """How a scan becomes a window."""

    WINDOW = "window"
    RESIZE = "resize"


class Heads(StrEnum):
    """What follows the last layer."""

    LINEAR = "linear"
    RELU = "relu"


def command(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="encoder.keras, .h5 or .weights.h5.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle's folder; its name is the bundle's.")],
    spacing: Annotated[str | None, typer.Option(help="Z,Y,X in mm of the voxels that it was trained on.")] = None,
    window_hu: Annotated[str | None, typer.Option(help="LOW,HIGH in HU that were scaled to 0 and 1.")] = None,
    fit: Annotated[
        Fit | None, typer.Option(help="window: cut from the scan at --spacing; resize: the whole scan resized to it.")
    ] = None,
    heads: Annotated[Heads | None, typer.Option(help="Of weights alone (.weights.h5), which do not say it.")] = None,
    mu: Annotated[str | None, typer.Option(help="Name of the layer that gives the posterior mean.")] = None,
    logvar: Annotated[str | None, typer.Option(help="Name of the layer that gives the log-variance.")] = None,
    window_voxels: Annotated[str | None, typer.Option(help="D,H,W, where the file leaves it open.")] = None,
    version: Annotated[str, typer.Option(help="Of the bundle.")] = "0.1.0",
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.WARN,
) -> int:
    """Make a bundle of a Keras encoder with its own weights; TensorFlow is not needed, no code in the file is run.

    The network is given windows in [0, 1], as the question's is: --window-hu says which HU those ends are. One that was
    trained on other values needs a Rescaling as its first layer. Without --window-hu, and --spacing or --fit resize,
    the bundle runs on arrays alone (ctvae bundle run), and encode refuses it.
    """

    def run() -> int:
        from models.bundle import BundleError
        from models.keras_bridge import read_keras
        from models.keras_bundle import write_keras_bundle
        from operators.types import StartError

        try:
            size = None if window_voxels is None else _voxels(window_voxels)
            imported = read_keras(source, heads=heads, mu=mu, logvar=logvar, window_voxels=size)
            depth, height, width = imported.parameters["window_voxels"]
            preprocessing = _preprocessing((depth, height, width), spacing, window_hu, fit)
            bundle, warnings = write_keras_bundle(imported, output, preprocessing, source=source, version=version)
        except BundleError as error:
            raise StartError("BUNDLE_INVALID", str(error)) from error
        for warning in warnings:
            logger.warning("%s", warning)
        taps = ", ".join(f"{tap.name} {'×'.join(map(str, tap.shape))}" for tap in bundle.taps)
        count = bundle.training["encoder_parameters"]
        sys.stdout.write(f"{bundle.name} {bundle.version}: {bundle.architecture}, {count} parameters\ntaps: {taps}\n")
        if bundle.arrays_only:
            sys.stdout.write("no preprocessing was given: it runs on arrays alone\n")
        return 0

    return guarded(run, log_level)


def _preprocessing(size: Size, spacing: str | None, window_hu: str | None, fit: Fit | None) -> Preprocessing:
    """What was said of it; none of the options: arrays alone."""
    from models.bundle import BundleError, Preprocessing, arrays_only

    if spacing is None and window_hu is None and fit is None:
        return arrays_only(size)
    if window_hu is None:
        raise BundleError(
            "--spacing and --fit say where voxels lie and not what they hold; say --window-hu LOW,HIGH too"
        )
    low, high = _numbers(window_hu, 2, "--window-hu")
    chosen = fit or (Fit.WINDOW if spacing is not None else None)
    if chosen is None:
        raise BundleError(
            "--window-hu says what voxels hold and not where they lie; say --spacing Z,Y,X or --fit resize"
        )
    if (chosen is Fit.WINDOW) != (spacing is not None):
        raise BundleError("--fit window needs --spacing Z,Y,X, and --fit resize goes without; say one of the two")
    if spacing is None:
        return Preprocessing("resize", size, None, (low, high))
    z, y, x = _numbers(spacing, 3, "--spacing")
    return Preprocessing("window", size, (z, y, x), (low, high))


def _voxels(text: str) -> Size:
    from models.bundle import BundleError

    depth, height, width = _numbers(text, 3, "--window-voxels")
    if any(not length.is_integer() or length < 1 for length in (depth, height, width)):
        raise BundleError(f"--window-voxels is {text[:60]!r}; expected three positive integers")
    return int(depth), int(height), int(width)


def _numbers(text: str, count: int, option: str) -> list[float]:
    from math import isfinite

    from models.bundle import BundleError

    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(isfinite, numbers)):
        raise BundleError(f"{option} is {text[:60]!r}; expected {count} numbers with commas between them")
    return numbers
