"""`ctvae bundle certify`: what a bundle's features are good for, measured on scans and written into the bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import (
    BundleArgument,
    ConfigOption,
    LogLevelOption,
    RootOption,
    ScanLabelsOption,
    ScansArgument,
    split_taps,
)
from app.process import LogLevel, guarded


def command(
    path: BundleArgument,
    data: ScansArgument,
    labels: ScanLabelsOption = None,
    root: RootOption = None,
    taps: Annotated[
        list[str] | None,
        typer.Option("--taps", "--tap", help="Layers to measure: dense,block3:max; default: all. May be repeated."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps changed windows for later runs; they are images of patients.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also measure on patients that the bundle was trained on.")
    ] = False,
    phantoms: Annotated[int, typer.Option(min=0, help="Number of phantoms for disentanglement; 0 for none.")] = 150,
    seed: Annotated[int, typer.Option(min=0, help="Seed of noise, folds, samples and phantoms.")] = 0,
    config: ConfigOption = None,
    log_level: LogLevelOption = LogLevel.INFO,
) -> int:
    """Measure on your own scans what a bundle's features are worth, and write it into the bundle.

    It measures repeatability, information, identity, reconstruction and disentanglement.
    Patients that the bundle was trained or calibrated on are left out. Takes some seconds per scan plus a minute.
    """

    def run() -> int:
        from app.console import progress
        from app.open_bundle import bundle_errors, open_bundle
        from app.research.certify.certify import certify_bundle, write_certificate
        from app.settings import load_settings
        from operators.errors import StartError

        if 0 < phantoms < 30:
            raise StartError("FEW_PHANTOMS", f"{phantoms} phantoms are too few; give at least 30, or 0 for none")
        bundle = open_bundle(path)
        names = split_taps(taps)
        with bundle_errors():
            with progress("finding scans") as show:
                certificate = certify_bundle(
                    bundle,
                    data,
                    root=root,
                    labels=labels,
                    taps=names,
                    cache=cache,
                    force=force,
                    phantoms=phantoms,
                    seed=seed,
                    settings=load_settings(config),
                    report=lambda text, fraction: show(fraction, 1, text),
                )
            write_certificate(bundle, certificate)
        named = f"{bundle.name} {bundle.version}"
        sys.stdout.write(f"{named} on {certificate.summary}; see its docs/README.md\n")
        return 0

    return guarded(run, log_level)
