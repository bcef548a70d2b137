"""The ledger of a run: every series met and how it ended, as `outcome.json` in the output folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from app.settings import starting
from operators.job import Job, failure, log_outcome
from operators.read_study import Inventory
from operators.results.write_json import RunFacts, write_outcome
from operators.types import Outcome, RunFailed, SeriesFailed
from operators.write_features import remove_features, series_folder

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Ledger:
    """Every series met in a run and how it ended; the only thing of a run that grows.

    Attributes:
        output: folder in which `outcome.json` ends; one of an earlier run is taken away at the start, so that a run
            that is killed leaves no ledger rather than a wrong one.
    """

    output: Path
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    reading_seconds: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    inventory: Inventory | None = None

    @property
    def met(self) -> int:
        """Number of series that were met, once all headers are read."""
        return 0 if self.inventory is None else len(self.inventory.series)

    def __post_init__(self) -> None:
        with starting():
            (self.output / "outcome.json").unlink(missing_ok=True)
            (self.output / "result.json").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """The open ledger."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it, also when the run was interrupted or broke: what was met and has no outcome has failed."""
        if error is None or self.inventory is not None:
            self.close()

    def enter(self, outcome: Outcome) -> None:
        """A series ended: one line in the log, one in the ledger, and no result of an earlier run if it has none."""
        if outcome.status != "written":
            with starting():
                remove_features(self.output, series_folder(outcome))
        log_outcome(outcome)
        self.outcomes.append(outcome)

    def enter_inventory(self, inventory: Inventory) -> None:
        """All headers are read: the files that could not be are entered."""
        self.inventory = inventory
        self.reading_seconds = (datetime.now(UTC) - self.started).total_seconds()
        for outcome in inventory.unreadable:
            self.enter(outcome)

    def close(self) -> None:
        """Write `outcome.json` and `result.json`.

        Silence is never success: a series that was met and has no outcome has failed, and no CT at all is a line.

        Raises:
            RunFailed: LOST_RUN, where it ended before anything was read.
        """
        if self.inventory is None:
            raise RunFailed("LOST_RUN", "the run ended before the input was read; nothing was written; run again")
        ended = {(outcome.series_instance_uid, outcome.part) for outcome in self.outcomes}
        for series in self.inventory.series:
            if (series.series_instance_uid, series.part) not in ended:
                lost = SeriesFailed("LOST_SERIES", "the run ended before this series did; run again")
                self.enter(failure(Job(series, series), lost))
        ruled_out = sum(outcome.reason == "NO_RULE" for outcome in self.outcomes)
        if all(outcome.status == "skipped" for outcome in self.outcomes) and ruled_out:
            logger.error("NO_RULE: no selection rule takes any of %d CT series; `ctvae inspect -c` says why", ruled_out)
        elif all(outcome.status == "skipped" for outcome in self.outcomes):
            met = f"{len(self.outcomes)} other series, {self.inventory.not_dicom} files that are no DICOM images"
            logger.error("NO_CT: no CT image series in the input folder (%s); `ctvae inspect` says what is there", met)
        about = RunFacts(self.started, self.reading_seconds, self.inventory.not_dicom)
        write_outcome(self.outcomes, self.output, about)
