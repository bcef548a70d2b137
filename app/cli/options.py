"""Options that several commands have, each with one name, meaning and help text; how the commands read them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.process import LogLevel


class DeviceName(StrEnum):
    """Where the encoder runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


InputArgument = Annotated[
    Path, typer.Argument(metavar="IN", help="Folder with CT, ZIP archive, NIfTI, NRRD or MHA file.")
]
FeaturesArgument = Annotated[
    Path, typer.Argument(metavar="FEATURES", help="Table of `ctvae table`, or folder of results.")
]
ScansArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="Folder of DICOM and NIfTI, or CSV list: path, patient, split, source, labels."
    ),
]
BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")]
BundleOrShippedArgument = Annotated[
    Path | None, typer.Argument(metavar="BUNDLE", help="The bundle's folder; default: the shipped one.")
]

OutputFolderOption = Annotated[
    Path, typer.Option("-o", "--output", help="Folder for the results; created if it does not exist.")
]
NewBundleOption = Annotated[
    Path,
    typer.Option(
        "-o", "--output", help="Folder of the new bundle, which is named after it. A bundle there is replaced."
    ),
]
ModelOption = Annotated[
    Path | None, typer.Option("-m", "--model", help="Bundle or folder of bundles; default: the shipped one.")
]
ConfigOption = Annotated[Path | None, typer.Option("-c", "--config", help="Settings file; default: app.yaml.")]
LogLevelOption = Annotated[
    LogLevel, typer.Option("-l", "--log-level", case_sensitive=False, help="Least severe messages that are logged.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MostOption = Annotated[int, typer.Option("-n", "--most", min=1, help="List at most this many.")]
TapsOption = Annotated[
    list[str] | None,
    typer.Option("--taps", "--tap", help="Layers besides mu and sigma, such as dense,block3:max. May be repeated."),
]
TableTapOption = Annotated[str, typer.Option("--tap", help="Layer of the table whose features are used.")]
_DEVICE = typer.Option("--device", help="Where the encoder runs; auto uses a GPU if there is one.")
DeviceOption = Annotated[DeviceName, _DEVICE]
DeviceOrSettingsOption = Annotated[DeviceName | None, _DEVICE]
TokenFileOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with the bearer token for the DICOMweb server.")
]
RootOption = Annotated[Path | None, typer.Option(help="Folder that the paths in a CSV list are relative to.")]
ScanLabelsOption = Annotated[
    Path | None, typer.Option(help="CSV of labels: series_instance_uid, patient or path, then a column per label.")
]
SpacingOption = Annotated[
    str | None,
    typer.Option(help="Z,Y,X in mm: spacing of the voxels that it was trained on; not with --fit resize."),
]
WindowHuOption = Annotated[str | None, typer.Option(help="LOW,HIGH: HU that were scaled to 0 and 1.")]
VersionOption = Annotated[str, typer.Option(help="Version of the new bundle.")]


def split_taps(given: list[str] | None) -> tuple[str, ...]:
    """Return taps one by one, whether given with commas or repeatedly."""
    return tuple(tap.strip() for words in given or () for tap in words.split(",") if tap.strip())
