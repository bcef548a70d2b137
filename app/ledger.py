"""The ledger of a run in the output folder: every series found and how it ended; and what a run may replace or remove.

A command removes and replaces only what it writes itself. So each has a ledger with its own name, and its own way to
remove what an earlier run of it wrote for a series.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from app.output_lock import output_lock
from app.process import starting
from operators.errors import SeriesFailed, StartError
from operators.job import Job, failure, log_outcome
from operators.read_study import Inventory
from operators.results.atomic import remove_unfinished, write_together
from operators.results.write_json import NOTICE, RunFacts, outcome_json, result_json
from operators.types import Outcome
from operators.uids import uid_from_digest
from operators.write_features import remove_features, series_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Results:
    """What a command writes into the output folder.

    Attributes:
        ledger: name of the file that states how each series ended.
        summary: name of the file for mercure; None for a command that no router starts.
        remove: removes what an earlier run wrote for a series, given the output folder and the series' name in it.
        unfinished: name pattern of files that a killed run may have left half written.
    """

    ledger: str
    summary: str | None
    remove: Callable[[Path, str], None]
    unfinished: str


FEATURES: Final = Results("outcome.json", "result.json", remove_features, "*/.features.*")


@dataclass(slots=True)
class Ledger:
    """Every series found in a run and how it ended; the only part of a run that grows.

    On entry it locks the output folder and removes the ledger of an earlier run, so that a killed run leaves no ledger
    rather than a wrong one.

    Attributes:
        output: folder in which the ledger is written.
        results: what the command writes.
    """

    output: Path
    results: Results = FEATURES
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    reading_seconds: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    inventory: Inventory | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def series_found(self) -> int:
        """Number of series found, once all headers are read."""
        return 0 if self.inventory is None else len(self.inventory.series)

    @property
    def files(self) -> list[Path]:
        """The files that `close` writes."""
        return [self.output / name for name in (self.results.ledger, self.results.summary) if name]

    def __enter__(self) -> Self:
        """Open the ledger.

        Raises:
            StartError: `OUTPUT_IN_USE`, `OUTPUT_IN_THE_WAY` or `NOT_ACCESSIBLE`.
        """
        with ExitStack() as stack:
            killed = stack.enter_context(output_lock(self.output))
            with starting():
                for file in self.files:
                    _remove_ours(file)
                if killed:
                    remove_unfinished(self.output, self.results.unfinished)
                    remove_unfinished(self.output, f".{self.results.ledger}.*")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the ledger, also after an interruption or error; a run that could not start leaves none."""
        with self._stack:
            if self.inventory is not None or not isinstance(error, StartError):
                self.close()

    def enter(self, outcome: Outcome) -> None:
        """Record how a series ended; one that was not written keeps no result of an earlier run of this command."""
        if outcome.status != "written":
            with starting():
                self.results.remove(self.output, series_folder(outcome))
        log_outcome(outcome)
        self.outcomes.append(outcome)

    def enter_inventory(self, inventory: Inventory) -> None:
        """Record the files that cannot be read, once all headers are read."""
        self.inventory = inventory
        self.reading_seconds = (datetime.now(UTC) - self.started).total_seconds()
        for outcome in inventory.unreadable:
            self.enter(outcome)

    def close(self) -> None:
        """Write the ledger and the summary.

        Silence is never success: a series without an outcome has failed, the whole input has failed where no series is
        known yet, and finding no CT at all is reported too.
        """
        if self.inventory is None:
            self.reading_seconds = (datetime.now(UTC) - self.started).total_seconds()
            self.enter(_lost_run())
        else:
            self._end_all(self.inventory)
        not_dicom = None if self.inventory is None else self.inventory.not_dicom
        about = RunFacts(self.started, self.reading_seconds, not_dicom)
        contents = (outcome_json(self.outcomes, about), result_json(self.outcomes))
        write_together(dict(zip(self.files, contents, strict=False)))

    def _end_all(self, inventory: Inventory) -> None:
        ended = {(outcome.series_instance_uid, outcome.part) for outcome in self.outcomes}
        for series in inventory.series:
            if (series.series_instance_uid, series.part) not in ended:
                lost = SeriesFailed("LOST_SERIES", "the run ended before this series did; run again")
                self.enter(failure(Job(series, series), lost))
        if all(outcome.status == "skipped" for outcome in self.outcomes):
            logger.error("%s", _why_nothing(self.outcomes, inventory.not_dicom))


@contextmanager
def before_ledger(output: Path) -> Iterator[None]:
    """Write the ledger of a run that is stopped in the block, before it opens one; a wrong call changes nothing.

    Args:
        output: folder in which the ledger is written.
    """
    try:
        yield
    except KeyboardInterrupt:
        with Ledger(output):
            raise


def _lost_run() -> Outcome:
    """Return the outcome of the whole input; like that of a folder that cannot be opened, its UID is from its path."""
    uid = uid_from_digest(hashlib.sha256(b".").hexdigest())
    text = "the run ended before the input was read; nothing was written; run again"
    return Outcome(uid, None, ".", "failed", "LOST_RUN", text)


def _why_nothing(skipped: Iterable[Outcome], not_dicom: int) -> str:
    """Return one line for a run in which every series was skipped."""
    reasons = Counter(str(outcome.reason) for outcome in skipped)
    if ruled_out := reasons["NO_RULE"]:
        return f"NO_RULE: no selection rule accepts any of {ruled_out} CT series; `ctvae inspect -c` says why"
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    others = f"{reasons.total()} other series ({counts})" if counts else "no other series"
    found = f"{others}, {not_dicom} files that are not DICOM images"
    return f"NO_CT: no CT image series in the input folder; found {found}; `ctvae inspect` lists the content"


def _remove_ours(file: Path) -> None:
    """Remove a ledger or summary of an earlier run.

    Raises:
        StartError: `OUTPUT_IN_THE_WAY`: ctvae did not write the file with that name.
    """
    try:
        found: Any = json.loads(file.read_bytes())
        ours = found.get("notice") == NOTICE or found.get("software", {}).get("name") == "ctvae"
    except FileNotFoundError:
        return
    except (ValueError, AttributeError):
        ours = False
    if not ours:
        text = f"{file} was not written by ctvae; move it away, or give another output folder"
        raise StartError("OUTPUT_IN_THE_WAY", text)
    file.unlink(missing_ok=True)
