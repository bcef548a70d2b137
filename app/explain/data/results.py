"""Features from wherever they are: a table, or a folder of results, of which a table is made on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from app.cohort.indexed_series import index_folder
from app.cohort.site_key import KEY_FILE, site_key
from app.console import no_report
from app.explain.data.feature_table import FeatureTable, read_features
from app.table.make import TableSettings, make_table
from app.table.sources import Passed, find_results, read_results
from operators.temporary_folder import temporary_folder


def read_place(place: Path) -> FeatureTable:
    """Read features.

    Args:
        place: a table in Parquet or CSV; or a folder of results, such as the output of `ctvae encode` or `cohort`, of
            which every layer is read.

    Raises:
        StartError: `BAD_TABLE`; `NO_RESULTS`, `MIXED_MODELS`, `SEVERAL_RESULTS` or `NO_SUCH_TAP`, as in `ctvae table`.
    """
    if not place.is_dir():
        return read_features(place)
    first = next(read_results(find_results([place]), None, Passed(), lambda: None), None)
    layers = tuple(tap for tap in first[1].taps if tap not in ("mu", "sigma")) if first else ()
    with temporary_folder() as folder:
        file = folder / "features.parquet"
        made = make_table([place], file, TableSettings(layers, with_paths=True), no_report)
        table = read_features(file)
    if not made.passed.broken:
        return table
    text = f"{len(made.passed.broken)} results are damaged and left out; `ctvae table` names them"
    return replace(table, notes=(*table.notes, text))


def cohort_key(*places: Path | None) -> bytes | None:
    """Return the site's key that `ctvae cohort` made and kept beside its index, if one of the places is its output.

    Raises:
        StartError: `BAD_SITE_KEY`, `NOT_ACCESSIBLE`.
    """
    folders = (index_folder(place) for place in places if place)
    kept = next((folder for folder in folders if folder and (folder / KEY_FILE).is_file()), None)
    return site_key(kept) if kept else None
