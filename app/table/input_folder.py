"""Where in the input of its run the series of a result lay: from `outcome.json`, or from the places of a cohort."""

from __future__ import annotations

import json
from pathlib import Path

from app.on_disk import DiskMap, short
from app.table.result import Result
from app.table.sources import Found
from operators.errors import CtvaeError


def input_folder(file: Found, result: Result, ledgers: dict[Path, DiskMap[str]]) -> str | None:
    """Return the folder of the CT series in the run's input, according to its `outcome.json`; None without one.

    Args:
        file: `OUT/<series>/features.json`.
        result: content of the file.
        ledgers: the ledger read last, by its folder; results of one folder come one after the other.
    """
    folder = file.path.parent.parent
    if folder not in ledgers:
        ledgers.clear()
        places = folder / "places.parquet"
        ledgers[folder] = _places_of(places) if places.exists() else _folders_of(folder / "outcome.json")
    return ledgers[folder].get(_series_key(result.series_instance_uid, result.part))


def _series_key(series_instance_uid: str, part: int | None) -> bytes:
    return short(f"{series_instance_uid} {part}")


def _folders_of(ledger: Path) -> DiskMap[str]:
    found: DiskMap[str] = DiskMap()
    try:
        for entry in json.loads(ledger.read_bytes())["series"]:
            found.enter(_series_key(entry["series_instance_uid"], entry["part"]), str(entry["folder"]))
    except (OSError, ValueError, KeyError, TypeError):
        return DiskMap()
    return found


def _places_of(file: Path) -> DiskMap[str]:
    """Return the first place of each series of a cohort.

    Raises:
        CtvaeError: `BROKEN_RESULT`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: DiskMap[str] = DiskMap()
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    found.enter(_series_key(row["series_instance_uid"], row["part"]), row["place"])
    except (OSError, pa.ArrowException, KeyError) as error:
        text = f"{file.name} of the cohort is damaged ({type(error).__name__}); run the cohort again"
        raise CtvaeError("BROKEN_RESULT", text) from error
    return found
