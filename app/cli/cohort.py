"""`ctvae cohort`: thousands of studies → one partitioned table."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli.encode import DeviceName, split_taps
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
            help="Folder tree, CSV with a column path (files or folders), DICOMDIR, or URL of a DICOMweb server.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for index, tables and report; created where missing.")
    ],
    models: Annotated[
        Path | None, typer.Option("-m", "--model", help="Bundle or folder of bundles; default: the shipped one.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that encode; default: one per core, one on a GPU.")
    ] = None,
    engine: Annotated[Engine, typer.Option(help="Encode on this machine, or on a Ray cluster.")] = Engine.LOCAL,
    ray_address: Annotated[
        str, typer.Option("--ray-address", help="host:port of the cluster; auto: the one that this machine belongs to.")
    ] = "auto",
    memory_mb: Annotated[
        int, typer.Option("--memory", min=256, help="MB that a process may take; a study that takes more fails.")
    ] = 4096,
    json: Annotated[bool, typer.Option("--json", help="Also write features.json for each series.")] = False,
    sr: Annotated[bool, typer.Option("--sr", help="Also write features.json and features.sr.dcm.")] = False,
    taps: Annotated[
        list[str] | None, typer.Option("--taps", "--tap", help="Layers to write beside mu and sigma: dense,block3:max.")
    ] = None,
    device: Annotated[DeviceName | None, typer.Option(help="Where the encoder runs; auto takes a GPU.")] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="Holds the bearer token of the DICOMweb server.")
    ] = None,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="Settings; default: app.yaml.")] = None,
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.ERROR,
) -> int:
    """Encode every eligible series of many studies into one table, and list all others with their reasons.

    After a stop or kill at any moment, the same command resumes. After it has finished, it encodes only what is new or
    has changed. `ctvae table OUTPUT` reads the result.
    """

    def run() -> int:
        from app.cohort.local import Limits
        from app.cohort.on_ray import Cluster
        from app.cohort.run import Options, default_workers, run_cohort
        from app.cohort.server import server_of
        from app.settings import load_settings

        settings = load_settings(config)
        defaults = settings.encode
        encode = dataclasses.replace(
            defaults,
            taps=split_taps(taps) if taps else defaults.taps,
            device=device.value if device else defaults.device,
        )
        limits = Limits(workers or default_workers(encode.device), memory_mb)
        cluster = Cluster(ray_address, workers) if engine is Engine.RAY else None
        options = Options(limits, "json_and_sr" if sr else "json" if json else "none", cluster)
        source = server_of(data, token_file) or Path(data)
        return run_cohort(source, output, models, dataclasses.replace(settings, encode=encode), options)

    return guarded(run, log_level)
