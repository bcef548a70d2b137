"""FeatureRecord → the files of a series, all there whole or none: JSON, SR where it came as DICOM, and long taps."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from pydicom.dataset import Dataset

from operators.results.write_json import features_json, write_atomically
from operators.results.write_taps import TAP_FILES, tap_files
from operators.sr.codes import SrClass
from operators.types import FeatureRecord, Outcome, Series, SeriesFailed

FEATURES_JSON = "features.json"
FEATURES_SR = "features.sr.dcm"


def write_features(
    record: FeatureRecord, output: Path, sr_class: SrClass = "comprehensive_3d", predecessor: Dataset | None = None
) -> FeatureRecord:
    """Write `features.json` and `features.sr.dcm` of a series below the output folder, and long taps beside them.

    All are made before any is written, so that a number that one of them cannot hold leaves no file. A series in a
    research format has no SR, for it has no patient and no study to be filed with; finding `RESEARCH_FORMAT` says so.

    Args:
        record: of the series.
        output: the folder of the results.
        sr_class: the SOP class of the SR.
        predecessor: an earlier SR whose place this one takes; named in the new one.

    Raises:
        SeriesFailed: OUTPUT_UNWRITABLE.
    """
    folder = output / series_folder(record.series)
    contents = {folder / FEATURES_JSON: features_json(record)}
    contents |= {folder / name: content for name, content in tap_files(record).items()}
    if not record.series.image:
        from operators.sr.write import sr_bytes

        contents[folder / FEATURES_SR] = sr_bytes(record, sr_class, predecessor)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        text = f"cannot make a folder in the output folder ({error.strerror}); check space and permissions"
        raise SeriesFailed("OUTPUT_UNWRITABLE", text) from error
    write_atomically(contents)
    _remove_taps(folder, keep=[path.name for path in contents])
    return record


def remove_features(output: Path, name: str) -> None:
    """Take away what an earlier run wrote of a series that this run could not write.

    Args:
        output: the folder of the results.
        name: of the series' folder in it.
    """
    folder = output / name
    if not folder.is_dir():
        return
    for file in (FEATURES_JSON, FEATURES_SR):
        (folder / file).unlink(missing_ok=True)
    _remove_taps(folder, keep=())
    if not any(folder.iterdir()):
        folder.rmdir()


def _remove_taps(folder: Path, keep: Collection[str]) -> None:
    """Take away files of taps that an earlier run was asked for."""
    for file in folder.glob(TAP_FILES):
        if file.name not in keep:
            file.unlink()


def series_folder(series: Series | Outcome) -> str:
    """Name of the folder of a series or part; its UID was checked when it was read."""
    part = "" if series.part is None else f".part{series.part}"
    return f"{series.series_instance_uid}{part}"
