"""FeatureRecord → the files of a series, all there whole or none: JSON, SR where it came as DICOM, and long taps."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from operators.errors import SeriesFailed
from operators.record import FeatureRecord
from operators.results.atomic import write_together
from operators.results.write_json import features_json
from operators.results.write_taps import TAP_FILE, tap_files
from operators.sr.codes import SrClass
from operators.types import Outcome, Series

FEATURES_JSON = "features.json"
FEATURES_SR = "features.sr.dcm"


PredecessorOf = Callable[[Series, SrClass], Dataset | None]
"""The earlier SR of a series, in this SOP class, whose place the new one takes; None where there is none."""


def no_predecessor(series: Series, sr_class: SrClass) -> None:
    """Say that no SR is replaced."""


def write_features(
    record: FeatureRecord,
    output: Path,
    sr_classes: Sequence[SrClass] = ("comprehensive_3d",),
    predecessor_of: PredecessorOf = no_predecessor,
) -> FeatureRecord:
    """Write `features.json` and `features.sr.dcm` of a series below the output folder, and long taps beside them.

    All are made before any is written, so that a number that one of them cannot hold leaves no file. A series in a
    research format has no SR, for it has no patient and no study to be filed with; finding `RESEARCH_FORMAT` says so.

    Args:
        record: of the series.
        output: the folder of the results.
        sr_classes: SOP classes of the SR; the first is `features.sr.dcm`, any other has its name in the file's name.
        predecessor_of: an earlier SR whose place the new one takes; named in it.

    Raises:
        SeriesFailed: OUTPUT_UNWRITABLE.
    """
    folder = output / series_folder(record.series)
    contents = {folder / FEATURES_JSON: features_json(record)}
    contents |= {folder / name: content for name, content in tap_files(record).items()}
    if not record.series.image:
        from operators.sr.write import sr_bytes

        for number, sr_class in enumerate(sr_classes):
            name = sr_file(sr_class) if number else FEATURES_SR
            contents[folder / name] = sr_bytes(record, sr_class, predecessor_of(record.series, sr_class))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        text = f"cannot make a folder in the output folder ({error.strerror}); check space and permissions"
        raise SeriesFailed("OUTPUT_UNWRITABLE", text) from error
    earlier = _tap_files_of(folder)
    write_together(contents)
    for file in earlier - set(contents):
        file.unlink(missing_ok=True)
    return record


def sr_file(sr_class: SrClass) -> str:
    """Name of the file of an SR that was asked for beside the first."""
    return f"features.{sr_class}.sr.dcm"


def remove_features(output: Path, name: str) -> None:
    """Remove what an earlier run wrote of a series that this run could not write, and nothing else.

    Args:
        output: the folder of the results.
        name: of the series' folder in it.
    """
    folder = output / name
    if not folder.is_dir():
        return
    for file in (*_tap_files_of(folder), folder / FEATURES_SR, folder / FEATURES_JSON):
        file.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _tap_files_of(folder: Path) -> set[Path]:
    """Return the files of long taps that the `features.json` in a folder names; none where it cannot be read."""
    try:
        taps = json.loads((folder / FEATURES_JSON).read_bytes())["taps"].values()
        names = [str(tap["file"]["name"]) for tap in taps if "file" in tap]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return set()
    return {folder / name for name in names if TAP_FILE.fullmatch(name)}


def series_folder(series: Series | Outcome) -> str:
    """Name of the folder of a series or part; its UID was checked when it was read."""
    part = "" if series.part is None else f".part{series.part}"
    return f"{series.series_instance_uid}{part}"
