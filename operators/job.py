"""One series on its way through the stages: its current state or how it ended, and the time each stage took."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar, runtime_checkable

from operators.errors import CtvaeError, SeriesError, StartError, Status
from operators.record import FeatureRecord
from operators.system_error import system_reason
from operators.types import Finding, Outcome, Series, Volume

logger = logging.getLogger(__name__)

T = TypeVar("T")
U = TypeVar("U")


@runtime_checkable
class Noun(Protocol):
    """What every state of a job provides, at any stage."""

    @property
    def volume(self) -> Volume | None:
        """Its volume; None before the geometry gate."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What has been found so far."""


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """A series and the result of its last stage: a noun from Series to FeatureRecord, or the `Outcome` that ended it.

    Attributes:
        series: as it was read.
        state: the result of the last stage.
        seconds: stage → wall-clock seconds.
    """

    series: Series
    state: T | Outcome
    seconds: Mapping[str, float] = field(default_factory=dict)

    def then(self, stage: str, function: Callable[[T], U]) -> Job[U]:
        """Return the job after one more stage. Never raises because of one series: its error becomes its outcome.

        Only `StartError` passes through, for a fault of the run affects every series.
        """
        if isinstance(self.state, Outcome):
            return Job(self.series, self.state, self.seconds)
        started = time.perf_counter()
        state: U | Outcome
        try:
            state = function(self.state)
        except StartError:
            raise
        except Exception as error:  # one failing series must not stop the others
            logger.debug("stage %s of series %s", stage, self.series.series_instance_uid, exc_info=True)
            state = failure(self, error)
        return Job(self.series, state, {**self.seconds, stage: time.perf_counter() - started})

    def ended(self, status: Status) -> Outcome:
        """Return the outcome of this job: its own where a stage ended it, else `status` with what the volume tells."""
        outcome = self.state if isinstance(self.state, Outcome) else _outcome(self, status)
        return replace(outcome, seconds=dict(self.seconds))


def failure(job: Job[T], error: Exception) -> Outcome:
    """Return an error of a stage as the outcome of its series, without the text of errors that ctvae did not raise.

    The message of a foreign exception may hold a path or a header value, so only its type is named.
    """
    if isinstance(error, SeriesError):
        return _outcome(job, error.status, error.reason, error.message)
    if isinstance(error, CtvaeError):
        return _outcome(job, "failed", error.reason, error.message)
    if isinstance(error, MemoryError):
        return _outcome(
            job, "failed", "OUT_OF_MEMORY", "not enough memory for this series; free some or use a bigger one"
        )
    if isinstance(error, OSError):
        text = f"the system reported: {system_reason(error)}, then run again"
        return _outcome(job, "failed", "INPUT_OUTPUT_ERROR", text)
    text = f"{type(error).__name__} inside ctvae; run again with --log-level DEBUG and report the traceback"
    return _outcome(job, "failed", "INTERNAL_ERROR", text)


def log_outcome(outcome: Outcome) -> None:
    """Log one line: a warning for a series that was rejected or failed, else information."""
    level = logging.WARNING if outcome.status in ("rejected", "failed") else logging.INFO
    part = "" if outcome.part is None else f" part {outcome.part}"
    why = f" {outcome.reason}: {outcome.message}" if outcome.reason else ""
    logger.log(level, "%s %s%s%s", outcome.status, outcome.series_instance_uid, part, why)


def _outcome(job: Job[T], status: Status, reason: str | None = None, message: str | None = None) -> Outcome:
    state = job.state if isinstance(job.state, Noun) else job.series
    volume = state.volume
    return Outcome(
        series_instance_uid=job.series.series_instance_uid,
        part=job.series.part,
        folder=job.series.folder,
        status=status,
        reason=reason,
        message=message,
        shape=volume.shape if volume else None,
        spacing_mm=volume.spacing_mm if volume else None,
        findings=state.findings,
        verdict=state.reliability.verdict if isinstance(state, FeatureRecord) and state.reliability else None,
    )
