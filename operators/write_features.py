"""FeatureRecord → the files of a series, all or none: JSON, SR for DICOM, long taps, the card, maps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

from operators.errors import SeriesFailed
from operators.record import FeatureRecord
from operators.results.atomic import make_folder, write_together
from operators.results.card_kinds import CARD_FILES, CardFormat, Reconstruct
from operators.results.map_files import MAP_FILE
from operators.results.write_json import features_json
from operators.results.write_taps import TAP_FILE, tap_files
from operators.sr.codes import SrClass
from operators.system_error import system_reason
from operators.types import Outcome, Series

if TYPE_CHECKING:
    from operators.results.card import Card
    from operators.sr.predecessor import Predecessor

FEATURES_JSON = "features.json"
FEATURES_SR = "features.sr.dcm"
FEATURES_FHIR = "features.fhir.json"


PredecessorOf = Callable[[Series, SrClass], "Predecessor | None"]
"""Returns the earlier SR of a series in a SOP class, which the new SR replaces; None where there is none."""


def no_predecessor(series: Series, sr_class: SrClass) -> None:
    """Return None: no SR is replaced."""


@dataclass(frozen=True, slots=True)
class ResultFiles:
    """Which files a series gets beside `features.json`.

    Attributes:
        sr: SOP classes of the SR; the first is written to `features.sr.dcm`, the others to files named after their
            class.
        predecessor_of: finds the earlier SR that the new one replaces; the new one refers to it.
        cards: formats in which the card, a page for a person, is written.
        reconstruct: the bundle's decoder, for the card; None where it has none.
        fhir: write the SR's content as FHIR R5 too.
        maps: write layers that are kept as grids as Parametric Maps too.
    """

    sr: tuple[SrClass, ...] = ("comprehensive_3d",)
    predecessor_of: PredecessorOf = no_predecessor
    cards: tuple[CardFormat, ...] = ()
    reconstruct: Reconstruct | None = None
    fhir: bool = False
    maps: bool = False


JSON_AND_SR: Final = ResultFiles()


def write_features(record: FeatureRecord, output: Path, files: ResultFiles = JSON_AND_SR) -> FeatureRecord:
    """Write `features.json`, `features.sr.dcm` and the other requested files of a series below the output folder.

    All are made before any is written, so a number that one of them cannot hold leaves no file behind. A series in a
    research format gets no DICOM files, for it has no patient or study to file them with (finding `RESEARCH_FORMAT`).
    Files of this series from an earlier run that this run does not write are removed.

    Args:
        record: the record of the series.
        output: the folder of the results.
        files: which files to write.

    Raises:
        SeriesFailed: `OUTPUT_UNWRITABLE`; from the SR also `NON_FINITE_NUMBER` or `BAD_NAME`.
        SeriesRejected: the card reads the slices again, and a slice can no longer be decoded.
    """
    folder = output / series_folder(record.series)
    contents = {FEATURES_JSON: features_json(record), **tap_files(record), **_card_files(record, files)}
    if not record.series.image:
        from operators.sr.write import sr_bytes

        for number, sr_class in enumerate(files.sr):
            name = sr_file(sr_class) if number else FEATURES_SR
            contents[name] = sr_bytes(record, sr_class, files.predecessor_of(record.series, sr_class))
        if files.fhir:
            from operators.results.fhir import fhir_json

            contents[FEATURES_FHIR] = fhir_json(record)
        if files.maps:
            from operators.dicom_out.parametric_map import parametric_maps

            contents |= parametric_maps(record)
    try:
        make_folder(folder)
    except OSError as error:
        text = f"cannot make a folder in the output folder: {system_reason(error)}"
        raise SeriesFailed("OUTPUT_UNWRITABLE", text) from error
    earlier = _files_of(folder)
    write_together({folder / name: content for name, content in contents.items()})
    for file in earlier - {folder / name for name in contents}:
        file.unlink(missing_ok=True)
    return record


def sr_file(sr_class: SrClass) -> str:
    """Return the file name of an SR in a further SOP class."""
    return f"features.{sr_class}.sr.dcm"


def _card_files(record: FeatureRecord, files: ResultFiles) -> dict[str, bytes]:
    """Return file name → content of the cards; the page is drawn once for all formats, or not at all."""
    wanted = [kind for kind in files.cards if kind == "png" or not record.series.image]
    if not wanted:
        return {}
    from operators.results.card import Card

    card = Card(record, files.reconstruct)
    return {CARD_FILES[kind]: _card_file(kind, card, record) for kind in wanted}


def _card_file(kind: CardFormat, card: Card, record: FeatureRecord) -> bytes:
    from operators.dicom_out.card_objects import encapsulated_pdf, secondary_capture

    if kind == "png":
        return card.png()
    return secondary_capture(record, card.pixels()) if kind == "sc" else encapsulated_pdf(record, card.pdf())


def remove_features(output: Path, name: str) -> None:
    """Remove the files that an earlier run wrote for a series that this run could not write, and nothing else.

    Args:
        output: the folder of the results.
        name: name of the series' folder in it.
    """
    folder = output / name
    if not folder.is_dir():
        return
    for file in _files_of(folder):
        file.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _files_of(folder: Path) -> set[Path]:
    """Return the files in a folder that an earlier run wrote: by their names, and the tap files that are listed."""
    fixed = {
        folder / name
        for name in (FEATURES_JSON, FEATURES_FHIR, FEATURES_SR, *map(sr_file, get_args(SrClass)), *CARD_FILES.values())
    }
    fixed |= {file for file in folder.glob("features.*") if MAP_FILE.fullmatch(file.name)}
    try:
        taps = json.loads((folder / FEATURES_JSON).read_bytes())["taps"].values()
        names = [str(tap["file"]["name"]) for tap in taps if "file" in tap]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return fixed
    return fixed | {folder / name for name in names if TAP_FILE.fullmatch(name)}


def series_folder(series: Series | Outcome) -> str:
    """Return the name of the folder of a series or part; its UID was checked when it was read."""
    part = "" if series.part is None else f".part{series.part}"
    return f"{series.series_instance_uid}{part}"
