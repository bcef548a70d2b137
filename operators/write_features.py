"""FeatureRecord → the two files of a series, each there whole or not at all; one, where it did not come as DICOM."""

from __future__ import annotations

from pathlib import Path

from operators.types import FeatureRecord, Series, SeriesFailed
from operators.write_json import features_json, write_atomically


def write_features(record: FeatureRecord, output: Path) -> FeatureRecord:
    """Write `features.json` and `features.sr.dcm` of a series below the output folder.

    Both are made before either is written, so that a number that one of them cannot hold leaves no file. A series in a
    research format has no SR, for it has no patient and no study to be filed with; finding `RESEARCH_FORMAT` says so.

    Raises:
        SeriesFailed: OUTPUT_UNWRITABLE.
    """
    as_json, as_sr = features_json(record), None
    if not record.series.image:
        from operators.write_sr import sr_bytes  # highdicom takes half a second to import

        as_sr = sr_bytes(record)
    folder = output / series_folder(record.series)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        text = f"cannot make a folder in the output folder ({error.strerror}); check space and permissions"
        raise SeriesFailed("OUTPUT_UNWRITABLE", text) from error
    if as_sr is not None:
        write_atomically(folder / "features.sr.dcm", as_sr)
    write_atomically(folder / "features.json", as_json)
    return record


def series_folder(series: Series) -> str:
    """Name of the folder of a series or part; its UID was checked when it was read."""
    part = "" if series.part is None else f".part{series.part}"
    return f"{series.series_instance_uid}{part}"
