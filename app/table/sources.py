"""Where results lie: files, folders of them, output folders of ctvae, a DICOMweb server."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from app.table.result import Result, result_of_json, result_of_sr
from operators.errors import CtvaeError, StartError

_JSON = "features.json"
_NOT_RESULTS = frozenset({"NOT_DICOM", "NOT_OUR_SR"})


@dataclass(frozen=True, slots=True)
class Found:
    """A file that may hold a result.

    Attributes:
        root: the folder that was given; the file itself where a file was.
        named: whether the user named this very file, so that anything else than a result in it is an error.
    """

    path: Path
    root: Path
    named: bool = False

    @property
    def name(self) -> str:
        """How messages call it: relative to what the user named."""
        return self.path.name if self.named else str(self.path.relative_to(self.root))


@dataclass(slots=True)
class Passed:
    """What was met and is not in the table.

    Attributes:
        broken: (file, reason) of each result that cannot be read.
        others: files that are no results.
        repeated: results that were met a second time.
        replaced: SRs that another one names as its predecessor.
    """

    broken: list[tuple[str, str]] = field(default_factory=list)
    others: int = 0
    repeated: int = 0
    replaced: int = 0


def find_results(places: Iterable[Path]) -> list[Found]:
    """List the files that may hold results, in a fixed order.

    Of a folder that holds `features.json` that is the result; an SR beside it holds the same numbers and is left out.

    Raises:
        StartError: `NO_RESULTS_THERE`: a place does not exist.
    """
    found: list[Found] = []
    for place in places:
        if place.is_file():
            found.append(Found(place, place, named=True))
        elif place.is_dir():
            found.extend(_below(place))
        else:
            raise StartError("NO_RESULTS_THERE", f"{place.name!r} is neither a file nor a folder; check the path")
    return found


def read_results(found: Iterable[Found], passed: Passed, on_file: Callable[[], None]) -> Iterator[tuple[Found, Result]]:
    """Read each file; what holds no result is counted in `passed`.

    Raises:
        CtvaeError: a file that the user named holds no result.
    """
    for file in found:
        on_file()
        try:
            yield file, (result_of_json if _is_json(file.path) else result_of_sr)(file.path)
        except CtvaeError as error:
            if file.named:
                raise
            if error.reason in _NOT_RESULTS:
                passed.others += 1
            else:
                passed.broken.append((file.name, str(error)))
        except OSError as error:
            passed.broken.append((file.name, f"NOT_OPENED: {error.strerror}"))


def input_folder(file: Found, result: Result, ledgers: dict[Path, dict[tuple[str, int | None], str]]) -> str | None:
    """The folder of the CT series in the run's input, as the run's `outcome.json` says; None without one.

    Args:
        file: `OUT/<series>/features.json`.
        result: what it holds.
        ledgers: those read so far, by folder.
    """
    folder = file.path.parent.parent
    if folder not in ledgers:
        if len(ledgers) > 64:
            ledgers.clear()
        ledgers[folder] = _folders_of(folder / "outcome.json")
    return ledgers[folder].get((result.series_instance_uid, result.part))


def _folders_of(ledger: Path) -> dict[tuple[str, int | None], str]:
    try:
        entries = json.loads(ledger.read_bytes())["series"]
        return {(entry["series_instance_uid"], entry["part"]): str(entry["folder"]) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _below(root: Path) -> Iterator[Found]:
    for folder, folders, names in os.walk(root):
        folders.sort()
        chosen = [_JSON] if _JSON in names else [name for name in sorted(names) if not name.endswith(".json")]
        yield from (Found(Path(folder, name), root) for name in chosen)


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"
