"""Where results lie: files, folders of them, output folders of ctvae, a DICOMweb server."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filereader import read_partial

from app.process import starting
from app.table.on_disk import DiskMap
from app.table.result import Result, result_of_json, result_of_sr, results_of_parquet
from operators.errors import CtvaeError, StartError
from operators.sr.read import MALFORMED
from operators.system_error import system_reason
from operators.temporary_folder import temporary_folder
from operators.write_features import FEATURES_SR

_JSON = "features.json"
_PREDECESSORS = 0x0040A360
_PARQUET = ".parquet"
_COHORT = {"cohort.json": "*/tables/features/*.parquet", "partition.json": "tables/features/*.parquet"}
"""Files that mark the folder of a cohort or of a partition of it → where its features are."""
_NOT_RESULTS = frozenset({"NOT_DICOM", "NOT_OUR_SR"})


@dataclass(frozen=True, slots=True)
class Found:
    """A file that may hold a result.

    Attributes:
        root: the folder that was given, or the file itself.
        named: whether the user named this very file, so that anything but a result in it is an error.
    """

    path: Path
    root: Path
    named: bool = False

    @property
    def name(self) -> str:
        """Name in messages: relative to what the user named."""
        return self.path.name if self.named else str(self.path.relative_to(self.root))


@dataclass(slots=True)
class Passed:
    """What was found but is not in the table.

    Attributes:
        broken: (file, reason) of each result that cannot be read.
        others: number of files that are not results.
        repeated: number of results found a second time.
        replaced: number of SRs that another one names as its predecessor.
    """

    broken: list[tuple[str, str]] = field(default_factory=list)
    others: int = 0
    repeated: int = 0
    replaced: int = 0


@contextmanager
def local_places(
    places: Sequence[str], token_file: Path | None, on_report: Callable[[int, int], None]
) -> Iterator[list[Path]]:
    """Yield paths of the places; SRs of a DICOMweb server lie in a folder that is removed when the block ends.

    Args:
        places: paths, and URLs of servers.
        token_file: holds the bearer token for the servers.
        on_report: called with (SRs fetched, SRs fetched).

    Raises:
        StartError: `SERVER_FAILED`; `NOT_ACCESSIBLE`: the token cannot be read.
    """
    urls = [place for place in places if place.startswith(("http://", "https://"))]
    paths = [Path(place) for place in places if place not in urls]
    if not urls:
        yield paths
        return
    from app.dicomweb import read_token
    from app.table.server import fetch_reports

    with starting():
        token = read_token(token_file)
    counter = count(1)

    def fetched() -> None:
        on_report(done := next(counter), done)

    with temporary_folder() as folder:
        for number, url in enumerate(urls):
            target = folder / str(number)
            target.mkdir()
            fetch_reports(url, token, target, fetched)
        yield [*paths, *sorted(folder.iterdir())]


def find_results(places: Iterable[Path]) -> Iterator[Found]:
    """Yield the files that may hold results, in a fixed order: two walks over the same folders are the same.

    In a folder that holds `features.json`, that is the result; an SR beside it holds the same numbers and is left out.

    Raises:
        StartError: `NO_RESULTS_THERE`: a place does not exist.
    """
    for place in places:
        if place.is_file():
            yield Found(place, place, named=True)
        elif place.is_dir():
            yield from _below(place)
        else:
            raise StartError("NO_RESULTS_THERE", f"{place.name!r} is neither a file nor a folder; check the path")


def survey(found: Iterable[Found]) -> tuple[int, set[bytes]]:
    """Return the number of files, and the SRs that another of them replaces, in the form of `short`."""
    files, replaced = 0, set[bytes]()
    for file in found:
        files += 1
        replaced.update(_predecessors_of(file))
    return files, replaced


def read_results(
    found: Iterable[Found], replaced: Set[bytes], passed: Passed, on_file: Callable[[], None]
) -> Iterator[tuple[Found, Result]]:
    """Yield the result of each file; a file without a result, or with a replaced one, is counted in `passed`.

    Raises:
        CtvaeError: a file that the user named holds no result.
    """
    for file in found:
        on_file()
        if replaced and _uid_of(file) in replaced:
            passed.replaced += 1
            continue
        try:
            yield from ((file, result) for result in _results_of(file.path))
        except CtvaeError as error:
            if file.named:
                raise
            if error.reason in _NOT_RESULTS:
                passed.others += 1
            else:
                passed.broken.append((file.name, str(error)))
        except OSError as error:
            passed.broken.append((file.name, f"NOT_OPENED: {system_reason(error)}"))


def _results_of(path: Path) -> Iterable[Result]:
    if path.suffix.lower() == _PARQUET:
        return results_of_parquet(path)
    return [(result_of_json if _is_json(path) else result_of_sr)(path)]


def _predecessors_of(file: Found) -> Iterator[bytes]:
    """Yield the SRs that the SR of a result replaces (PS3.3 C.17.2), each as 16 bytes."""
    for study in _head(file).get("PredecessorDocumentsSequence") or []:
        for series in study.get("ReferencedSeriesSequence") or []:
            for one in series.get("ReferencedSOPSequence") or []:
                yield short(str(one.get("ReferencedSOPInstanceUID")))


def _uid_of(file: Found) -> bytes:
    return short(str(_head(file).get("SOPInstanceUID")))


def _head(file: Found) -> Dataset:
    """Return the SR of a result, or the one beside its JSON, up to its predecessors; empty if there is none.

    Errors in it are reported when it is read as a result.
    """
    path = file.path.with_name(FEATURES_SR) if _is_json(file.path) else file.path
    try:
        with path.open("rb") as opened:
            return read_partial(opened, lambda tag, vr, length: tag > _PREDECESSORS)
    except (OSError, *MALFORMED):
        return Dataset()


def short(text: str) -> bytes:
    """Return 16 bytes that stand for a text, so that a million of them fit into memory."""
    return hashlib.sha256(text.encode()).digest()[:16]


def input_folder(file: Found, result: Result, ledgers: dict[Path, DiskMap[str]]) -> str | None:
    """Return the folder of the CT series in the run's input, according to its `outcome.json`; None without one.

    Args:
        file: `OUT/<series>/features.json`.
        result: content of the file.
        ledgers: ledgers read so far, by folder.
    """
    folder = file.path.parent.parent
    if folder not in ledgers:
        if len(ledgers) > 64:
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
    """Return the first place of each series of a cohort."""
    import pyarrow.parquet as pq

    found: DiskMap[str] = DiskMap()
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                found.enter(_series_key(row["series_instance_uid"], row["part"]), row["place"])
    return found


def _below(root: Path) -> Iterator[Found]:
    for folder, folders, names in os.walk(root):
        folders.sort()
        if cohort := next((pattern for name, pattern in _COHORT.items() if name in names), None):
            yield from (Found(path, root) for path in sorted(Path(folder).glob(cohort)))
            folders.clear()
            continue
        chosen = [_JSON] if _JSON in names else [name for name in sorted(names) if not name.endswith(".json")]
        yield from (Found(Path(folder, name), root) for name in chosen)


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"
