"""`ctvae bundle certify`: what a bundle's features are good for, measured on scans and written into the bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.process import LogLevel, guarded


def command(
    path: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder; the certificate is written into it.")
    ],
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="Folder of DICOM and NIfTI, or a CSV: path, patient, split, source, labels."
        ),
    ],
    labels: Annotated[
        Path | None, typer.Option(help="CSV: series_instance_uid, patient or path, then columns of labels.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder that a list's paths are relative to.")] = None,
    taps: Annotated[str, typer.Option(help="Layers to measure: dense,block3:max; default: all of the bundle.")] = "",
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps changed windows between runs; they are images of patients.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also measure on patients that the bundle was trained on.")
    ] = False,
    phantoms: Annotated[int, typer.Option(min=0, help="Phantoms for disentanglement; 0 for none.")] = 150,
    seed: Annotated[int, typer.Option(min=0, help="Seed of noise, folds, samples and phantoms.")] = 0,
    settings: Annotated[
        Path | None,
        typer.Option("--settings", help="Settings whose selection and geometry apply to the scans; default: app.yaml."),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.INFO,
) -> int:
    """Measure what a bundle's features are worth on your own scans, and write it into the bundle.

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
            raise StartError("FEW_PHANTOMS", f"{phantoms} phantoms say nothing; give at least 30, or 0 for none")
        bundle = open_bundle(path)
        names = tuple(filter(None, (name.strip() for name in taps.split(","))))
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
                    settings=load_settings(settings),
                    report=lambda text, fraction: show(fraction, 1, text),
                )
            write_certificate(bundle, certificate)
        named = f"{bundle.name} {bundle.version}"
        sys.stdout.write(f"{named} on {certificate.summary}; see its docs/README.md\n")
        return 0

    return guarded(run, log_level)
