"""`ctvae encode`: encoding in a plain loop, without the graph's start-up time; the files are the same."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import (
    ConfigOption,
    DeviceOrSettingsOption,
    InputArgument,
    LogLevelOption,
    ModelOption,
    OutputFolderOption,
    split_taps,
)
from app.process import LogLevel, guarded


class CardName(StrEnum):
    """Format in which the card is written."""

    png = "png"
    sc = "sc"
    pdf = "pdf"


def command(
    folder: InputArgument,
    output: OutputFolderOption,
    models: ModelOption = None,
    taps: Annotated[
        list[str] | None,
        typer.Option(
            "--taps",
            "--tap",
            help="Layers to write besides mu and sigma, pooled as in the bundle or as given: dense,block3:max "
            "(none, mean, max, std, flatten); z, with --seed, is a random draw. May be repeated.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the random draw z: --taps z --seed 7, or --taps z:7.")
    ] = None,
    device: DeviceOrSettingsOption = None,
    with_identifiers: Annotated[
        bool, typer.Option(help="Write the patient's name, ID and birth date into features.json.")
    ] = False,
    with_dates: Annotated[bool, typer.Option(help="Write the dates of study and series into features.json.")] = False,
    card: Annotated[
        list[CardName] | None,
        typer.Option(
            help="Also write a one-page card per series: png, sc (DICOM Secondary Capture) or pdf. May be repeated."
        ),
    ] = None,
    fhir: Annotated[bool, typer.Option(help="Also write the SR's content as FHIR R5 (features.fhir.json).")] = False,
    parametric_map: Annotated[
        bool, typer.Option(help="Also write layers kept as grids (block3:none) as DICOM Parametric Maps.")
    ] = False,
    predecessor: Annotated[
        list[Path] | None,
        typer.Option(help="An earlier features.sr.dcm that the new SR replaces. May be repeated."),
    ] = None,
    config: ConfigOption = None,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Encode each CT series of a folder: features.json and features.sr.dcm per series, outcome.json for the run."""

    def run() -> int:
        from app.encode_folder import encode_folder
        from app.settings import check_paths, load_settings

        settings = load_settings(config)
        defaults = settings.encode
        settings = dataclasses.replace(
            settings,
            encode=dataclasses.replace(
                defaults,
                taps=_seeded(split_taps(taps) if taps else defaults.taps, seed),
                device=device.value if device else defaults.device,
            ),
            privacy=dataclasses.replace(
                settings.privacy,
                with_identifiers=with_identifiers or settings.privacy.with_identifiers,
                with_dates=with_dates or settings.privacy.with_dates,
            ),
            card=tuple(dict.fromkeys(name.value for name in card)) if card else settings.card,
            fhir=fhir or settings.fhir,
            parametric_map=parametric_map or settings.parametric_map,
        )
        return encode_folder(check_paths(folder, output, models), settings, tuple(predecessor or ()))

    return guarded(run, log_level)


def _seeded(taps: tuple[str, ...], seed: int | None) -> tuple[str, ...]:
    """Return the taps with `z` as `z:SEED`.

    Raises:
        StartError: there is a seed, but nothing to draw.
    """
    from operators.encode import DRAW
    from operators.errors import StartError

    if seed is None:
        return taps
    if DRAW not in taps:
        raise StartError("UNKNOWN_TAP", "--seed is for the random draw z; give --taps z too, or leave out --seed")
    return tuple(f"{DRAW}:{seed}" if tap == DRAW else tap for tap in taps)
