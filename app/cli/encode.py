"""`ctvae encode`: encoding in a plain loop, without the graph's start-up time; the files are the same."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.process import LogLevel, guarded


def split_taps(given: list[str]) -> tuple[str, ...]:
    """Return taps one by one, whether given with commas or repeatedly."""
    return tuple(tap.strip() for words in given for tap in words.split(",") if tap.strip())


class CardName(StrEnum):
    """Format in which the card is written."""

    png = "png"
    sc = "sc"
    pdf = "pdf"


class DeviceName(StrEnum):
    """Where the encoder runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def command(
    folder: Annotated[Path, typer.Argument(metavar="IN", help="Folder with CT, ZIP archive, NIfTI, NRRD or MHA file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results; created where missing.")],
    models: Annotated[
        Path | None, typer.Option("-m", "--model", help="Bundle or folder of bundles; default: the shipped one.")
    ] = None,
    taps: Annotated[
        list[str] | None,
        typer.Option(
            "--taps",
            "--tap",
            help="Layers to write beside mu and sigma, pooled as in the bundle or as given: dense,block3:max "
            "(none, mean, max, std, flatten); z, with --seed, for a random draw. May be given again.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the random draw z: --tap z --seed 7, or --tap z:7.")
    ] = None,
    device: Annotated[DeviceName | None, typer.Option(help="Where the encoder runs; auto takes a GPU.")] = None,
    with_identifiers: Annotated[bool, typer.Option(help="Write name, ID and birth date into features.json.")] = False,
    with_dates: Annotated[bool, typer.Option(help="Write dates of study and series into features.json.")] = False,
    card: Annotated[
        list[CardName] | None,
        typer.Option(help="Also write a page per series for a person: png, sc (Secondary Capture) or pdf. May repeat."),
    ] = None,
    fhir: Annotated[bool, typer.Option(help="Also write the SR's content as FHIR R5 (features.fhir.json).")] = False,
    parametric_map: Annotated[
        bool, typer.Option(help="Also write layers kept as grids (block3:none) as DICOM Parametric Maps.")
    ] = False,
    predecessor: Annotated[
        list[Path] | None,
        typer.Option(help="An earlier features.sr.dcm that the new SR replaces. May repeat."),
    ] = None,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="Settings; default: app.yaml.")] = None,
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.WARN,
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
        raise StartError("UNKNOWN_TAP", "--seed is for the random draw z; give --tap z too, or leave it out")
    return tuple(f"{DRAW}:{seed}" if tap == DRAW else tap for tap in taps)
