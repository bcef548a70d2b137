"""`ctvae bundle import-keras`: from an encoder trained in Keras to a bundle."""

from __future__ import annotations

import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import LogLevelOption, NewBundleOption, SpacingOption, VersionOption, WindowHuOption
from app.process import LogLevel, guarded, starting

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
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Encoder: .keras, .h5 or .weights.h5.")],
    output: NewBundleOption,
    spacing: SpacingOption = None,
    window_hu: WindowHuOption = None,
    fit: Annotated[
        Fit | None,
        typer.Option(
            help="window: cut windows from the scan at --spacing; resize: resize the whole scan to one window."
        ),
    ] = None,
    heads: Annotated[
        Heads | None, typer.Option(help="Activation of the heads; needed for .weights.h5, which does not record it.")
    ] = None,
    mu: Annotated[str | None, typer.Option(help="Name of the layer that gives the posterior mean.")] = None,
    logvar: Annotated[str | None, typer.Option(help="Name of the layer that gives the log-variance.")] = None,
    window_voxels: Annotated[
        str | None, typer.Option(help="Z,Y,X: size of the input, if the file leaves it open.")
    ] = None,
    version: VersionOption = "0.1.0",
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Make a bundle from a Keras encoder and its weights. Needs no TensorFlow and runs no code from the file.

    The network gets windows in [0, 1]; --window-hu says which HU 0 and 1 stand for. A network trained on other values
    needs a Rescaling as its first layer. Without --window-hu, and --spacing or --fit resize, the bundle accepts
    only arrays (ctvae bundle run), and encode refuses it.
    """

    def run() -> int:
        from app.cli.bundle import preprocessing_of, voxels
        from app.open_bundle import bundle_errors
        from models.importers.keras.bundle import write_keras_bundle
        from models.importers.keras.read import read_keras
        from models.spec import BundleError

        with starting(), bundle_errors():
            size = None if window_voxels is None else voxels("--window-voxels", window_voxels)
            imported = read_keras(source, heads=heads, mu=mu, logvar=logvar, window_voxels=size)
            if fit is not None and window_hu is None:
                raise BundleError("--fit sets where voxels lie but not their HU range; give --window-hu LOW,HIGH too")
            size = imported.parameters["window_voxels"]
            preprocessing = preprocessing_of(size, spacing, window_hu, fit or Fit.WINDOW)
            bundle, warnings = write_keras_bundle(imported, output, preprocessing, source=source, version=version)
        for warning in warnings:
            logger.warning("%s", warning)
        taps = ", ".join(f"{tap.name} {'×'.join(map(str, tap.shape))}" for tap in bundle.taps)
        count = bundle.training.encoder_parameters
        sys.stdout.write(f"{bundle.name} {bundle.version}: {bundle.architecture}, {count} parameters\ntaps: {taps}\n")
        if bundle.arrays_only:
            sys.stdout.write("no preprocessing was given: the bundle accepts only arrays\n")
        return 0

    return guarded(run, log_level)
