"""`ctvae bundle reference`: the patients by whom the features of later scans are judged."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import BundleArgument, ConfigOption, LogLevelOption, RootOption
from app.process import LogLevel, guarded


def command(
    path: BundleArgument,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="Folder of DICOM and NIfTI, or CSV list, of which the split `reference` is used."
        ),
    ],
    root: RootOption = None,
    config: ConfigOption = None,
    log_level: LogLevelOption = LogLevel.INFO,
) -> int:
    """Encode reference patients and write their population into the bundle: later results then state their reliability.

    Patients that the bundle was trained on are left out. At least 9 are needed for a verdict. Weights and encoder stay
    as they are; decoder.onnx is added if missing. Takes about a second per patient.
    """

    def run() -> int:
        from app.console import progress
        from app.open_bundle import bundle_errors, open_bundle
        from app.research.reference import reference_of_data
        from app.settings import load_settings
        from models.bundle.reference import read_reference

        bundle = open_bundle(path, reference=False)
        with bundle_errors():
            with progress("finding scans") as show:
                written = reference_of_data(
                    bundle,
                    data,
                    root=root,
                    settings=load_settings(config),
                    report=lambda text, fraction: show(fraction, 1, text),
                )
            population = read_reference(written)
        assert population is not None
        population_text = f"{population.patients} reference patients, smallest p {population.smallest_p:.2g}"
        sys.stdout.write(f"{written.name} {written.version}: {population_text}\n")
        return 0

    return guarded(run, log_level)
