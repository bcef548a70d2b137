"""`ctvae export`: the volumes that were read, as NIfTI for viewing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.process import LogLevel, guarded


def command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Folder with CT, ZIP archive, NIfTI, NRRD or MHA file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the files; created where missing.")],
    windows: Annotated[
        bool,
        typer.Option("--windows", help="Also write the windows that the encoder sees, in HU, one file per window."),
    ] = False,
    models: Annotated[
        Path | None,
        typer.Option("-m", "--model", help="Bundle, or folder of bundles, of the windows; default: the shipped one."),
    ] = None,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="Settings; default: app.yaml.")] = None,
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.WARN,
) -> int:
    """Write each readable CT volume as SERIES.nii.gz (int16 HU with its affine), and outcome.export.json for the run.

    --windows adds SERIES.window1.nii.gz and so on, in the order of the windows in features.json.
    """

    def run() -> int:
        from app.export import export_folder
        from app.settings import check_paths, load_settings

        return export_folder(check_paths(source, output, models), load_settings(config), windows=windows)

    return guarded(run, log_level)
