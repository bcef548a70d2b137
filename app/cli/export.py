"""`ctvae export`: the volumes that were read, as NIfTI for viewing."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.options import ConfigOption, InputArgument, LogLevelOption, ModelOption, OutputFolderOption
from app.process import LogLevel, guarded


def command(
    source: InputArgument,
    output: OutputFolderOption,
    windows: Annotated[
        bool,
        typer.Option(
            "--windows", help="Also write the windows that the encoder of --model sees, in HU, one file per window."
        ),
    ] = False,
    models: ModelOption = None,
    config: ConfigOption = None,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Write each readable CT volume as SERIES.nii.gz (int16 HU with its affine), and outcome.export.json for the run.

    --windows adds SERIES.window1.nii.gz and so on, in the order of the windows in features.json.
    """

    def run() -> int:
        from app.export import export_folder
        from app.settings import check_paths, load_settings

        return export_folder(check_paths(source, output, models), load_settings(config), windows=windows)

    return guarded(run, log_level)
