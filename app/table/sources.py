"""Where results lie: files, folders of them, output folders of ctvae, a DICOMweb server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filereader import read_partial

from app.folder_listing import FOLDER, LINK, OTHER, Listing
from app.on_disk import DiskMap, short
from app.process import starting
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
        closed: why a folder could not be read; this is then that folder.
    """

    path: Path
    root: Path
    named: bool = False
    closed: OSError | None = None

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
            yield from _below(place, place)
        else:
            raise StartError("NO_RESULTS_THERE", f"{place.name!r} is neither a file nor a folder; check the path")


def survey(found: Iterable[Found], on_file: Callable[[int], None]) -> tuple[int, DiskMap[str] | None]:
    """Return the number of results at most, and the SRs that another of them replaces, in the form of `short`.

    Args:
        found: the files.
        on_file: called with the number of results so far.
    """
    results, replaced = 0, None
    for file in found:
        results += _rows_of(file.path)
        on_file(results)
        for uid in _predecessors_of(file):
            replaced = replaced or DiskMap()
            replaced.enter(uid, "")
    return results, replaced


def read_results(
    found: Iterable[Found], replaced: DiskMap[str] | None, passed: Passed, on_result: Callable[[], None]
) -> Iterator[tuple[Found, Result]]:
    """Yield the result of each file; a file without a result, or with a replaced one, is counted in `passed`.

    Raises:
        CtvaeError: a file that the user named holds no result.
    """
    for file in found:
        if replaced and replaced.get(_uid_of(file)) is not None:
            passed.replaced += 1
            on_result()
            continue
        try:
            if file.closed:
                raise file.closed
            for result in _results_of(file.path):
                on_result()
                yield file, result
        except CtvaeError as error:
            if file.named:
                raise
            if error.reason in _NOT_RESULTS:
                passed.others += 1
            else:
                passed.broken.append((file.name, str(error)))
            on_result()
        except OSError as error:
            passed.broken.append((file.name, f"NOT_OPENED: {system_reason(error)}"))
            on_result()


def _rows_of(path: Path) -> int:
    """Return how many results a file may hold; of a damaged table 1."""
    if path.suffix.lower() != _PARQUET:
        return 1
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException):  # reported when it is read as a result
        return 1


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


def _below(folder: Path, root: Path) -> Iterator[Found]:
    try:
        names = Listing(folder)
    except OSError as error:
        yield Found(folder, root, closed=error)
        return
    if cohort := next((pattern for name, pattern in _COHORT.items() if name in names), None):
        yield from (Found(path, root) for path in sorted(folder.glob(cohort)))
        return
    if _JSON in names:
        yield Found(folder / _JSON, root)
    else:
        yield from (Found(folder / name, root) for name, kind in names if _may_be_an_sr(folder / name, kind))
    for name, kind in names:
        if kind == FOLDER:
            yield from _below(folder / name, root)


def _may_be_an_sr(path: Path, kind: str) -> bool:
    return kind not in (FOLDER, OTHER) and path.suffix != ".json" and not (kind == LINK and path.is_dir())


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"
