"""Some series of a cohort, opened by its index: only their studies are read, however large the cohort is."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Generator, Iterator, Set
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

from app.cohort.index import FILES, Index
from app.cohort.open_unit import open_files, read_unit
from app.cohort.server import server_of
from app.cohort.source import Source
from app.cohort.units import Unit
from app.settings import Settings
from operators.dicom.values import is_valid_uid
from operators.errors import SeriesError, StartError
from operators.job import Job
from operators.results.atomic import write_together
from operators.select_series import select
from operators.types import Series

logger = logging.getLogger(__name__)

INDEX: Final = "index"
ROOT_FILE: Final = "data.json"


def note_root(folder: Path, source: Source) -> None:
    """Note beside the index where the data of the cohort are; the paths in the index are relative to it."""
    root = source.server.url if source.server else os.fspath(source.root.absolute())
    file, content = folder / ROOT_FILE, (json.dumps({"root": root}) + "\n").encode()
    if not file.is_file() or file.read_bytes() != content:
        write_together({file: content})


def index_folder(place: Path) -> Path | None:
    """Return the folder of a cohort's index; None where the place is no cohort's output, index folder or index file."""
    for folder in (place / INDEX, place, place.parent):
        if (folder / FILES).is_file() and (folder != place.parent or place.name == FILES):
            return folder
    return None


@contextmanager
def open_indexed(folder: Path, settings: Settings, wanted: Set[str]) -> Iterator[Iterator[Job[Series]]]:
    """Open the studies of a cohort that hold any of these series.

    Args:
        folder: of the index.
        settings: which series of a study are selected.
        wanted: SeriesInstanceUIDs.

    Yields:
        One job per series of these studies, whether it is wanted or not. Archives stay unpacked for as long as their
        study is looked at.

    Raises:
        StartError: `NO_DATA`: the index does not say where the data are, or they are no longer there.
    """
    root = _root(folder)
    with closing(_jobs(Index(folder / FILES), root, settings, wanted)) as jobs:
        yield jobs


def _jobs(index: Index, root: Path, settings: Settings, wanted: Set[str]) -> Generator[Job[Series]]:
    for unit in index.units():
        if not _may_hold(unit, wanted):
            continue
        with ExitStack() as stack:
            try:
                inventory = read_unit(unit, *open_files(unit, root, stack))
            except SeriesError as error:
                logger.warning("a study of the cohort was not opened: %s: %s", error.reason, error)
                continue
            for study in inventory.studies:
                yield from select(study, settings.selection)


def _may_hold(unit: Unit, wanted: Set[str]) -> bool:
    """Return whether a series of the unit is wanted, or has another UID in the results than in its files."""
    stated = {one.series for one in unit.files}
    return bool(wanted & stated or unit.shared or any(not is_valid_uid(uid) for uid in stated))


def _root(folder: Path) -> Path:
    try:
        named = json.loads((folder / ROOT_FILE).read_bytes())["root"]
        root = Path(named)
    except (OSError, ValueError, LookupError, TypeError) as error:
        text = "the index does not say where the data of the cohort are; run `ctvae cohort` on them once more"
        raise StartError("NO_DATA", f"{text}, or give the data themselves") from error
    if server_of(named, None):
        raise StartError("NO_DATA", "the data of the cohort are on a DICOMweb server; give a folder of them instead")
    if not root.is_dir():
        raise StartError("NO_DATA", "the data of the cohort are no longer where it was made; give their folder instead")
    return root
