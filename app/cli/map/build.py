"""`ctvae map build`: the container image as an OCI archive, with its bill of materials beside it."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import LogLevelOption
from app.process import LogLevel, guarded


class VariantName(StrEnum):
    """Which libraries are in the image."""

    cpu = "cpu"
    gpu = "gpu"


def command(
    variant: Annotated[
        VariantName, typer.Option(help="cpu: with ONNX Runtime; gpu: with torch and CUDA.")
    ] = VariantName.cpu,
    base: Annotated[
        str | None,
        typer.Option(
            help="Base image, or root file system as .tar; default: python:3.11-slim-bookworm if the registry can be "
            "reached, else Debian bookworm made by debootstrap."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the archive.")] = Path("dist"),
    image: Annotated[str, typer.Option(help="Name and tag of the image; default: ctvae:VERSION.")] = "",
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Build the container image from this checkout, with Docker if its daemon runs, else with buildah."""

    def run() -> int:
        from app.packaging.base import chosen_base
        from app.packaging.build import build

        built = build(variant.value, base or chosen_base(output), output, image)
        unpacked_mb, compressed_mb = built.unpacked_bytes / 1e6, built.compressed_bytes / 1e6
        sys.stdout.write(
            f"{built.archive}\n{built.digest}\n{unpacked_mb:.0f} MB unpacked, {compressed_mb:.0f} MB compressed; "
            f"bill of materials: {built.bill}\n"
        )
        return 0

    return guarded(run, log_level)
