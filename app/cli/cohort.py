"""`ctvae cohort`: thousands of studies → one partitioned table."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import (
    ConfigOption,
    DeviceOrSettingsOption,
    LogLevelOption,
    ModelOption,
    TapsOption,
    TokenFileOption,
    split_taps,
)
from app.process import LogLevel, guarded


class Engine(StrEnum):
    """Where studies are encoded."""

    LOCAL = "local"
    RAY = "ray"


def command(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Folder, CSV with a column `path` (files or folders), DICOMDIR, or URL of a DICOMweb server.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for index, tables and report; created if it does not exist.")
    ],
    models: ModelOption = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes that encode; default: one per core, one on a GPU.")
    ] = None,
    engine: Annotated[Engine, typer.Option(help="Encode on this machine, or on a Ray cluster.")] = Engine.LOCAL,
    ray_address: Annotated[
        str,
        typer.Option("--ray-address", help="host:port of the cluster; auto: the cluster that this machine belongs to."),
    ] = "auto",
    memory_mb: Annotated[
        int,
        typer.Option("--memory", min=256, help="MB of memory that a process may use; a study that needs more fails."),
    ] = 4096,
    json: Annotated[bool, typer.Option("--json", help="Also write features.json for each series.")] = False,
    sr: Annotated[bool, typer.Option("--sr", help="Also write features.json and features.sr.dcm.")] = False,
    taps: TapsOption = None,
    device: DeviceOrSettingsOption = None,
    token_file: TokenFileOption = None,
    config: ConfigOption = None,
    log_level: LogLevelOption = LogLevel.ERROR,
) -> int:
    """Encode every eligible series of many studies into one table, and list all others with a reason.

    If the run is stopped or killed, run the same command again: it resumes. After a finished run, it encodes only what
    is new or has changed. `ctvae table OUTPUT` reads the result.
    """

    def run() -> int:
        from app.cohort.local import Limits
        from app.cohort.on_ray import Cluster
        from app.cohort.run import Options, cores, default_workers, run_cohort
        from app.cohort.server import server_of
        from app.settings import load_settings

        settings = load_settings(config)
        defaults = settings.encode
        encode = dataclasses.replace(
            defaults,
            taps=split_taps(taps) if taps else defaults.taps,
            device=device.value if device else defaults.device,
        )
        limits = Limits(workers or default_workers(encode.device), memory_mb, readers=workers or cores())
        cluster = Cluster(ray_address, workers) if engine is Engine.RAY else None
        options = Options(limits, "json_and_sr" if sr else "json" if json else "none", cluster)
        source = server_of(data, token_file) or Path(data)
        return run_cohort(source, output, models, dataclasses.replace(settings, encode=encode), options)

    return guarded(run, log_level)
