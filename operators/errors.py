"""The errors that end a run or a series, each with a reason code and one line for a person."""

from __future__ import annotations

from typing import Literal

from operators.printable import printable

Status = Literal["written", "eligible", "rejected", "skipped", "failed"]


class CtvaeError(Exception):
    """What went wrong, with a reason code that scripts can rely on and one line for a person.

    Attributes:
        reason: upper-case code, such as `MISSING_SLICE`.
        message: what was found, what was expected, what to do; no patient identity, no path outside the input.
    """

    def __init__(self, reason: str, message: str) -> None:
        # Some of it may come from a file, and would begin a line of its own in the log or steer a terminal.
        message = printable(message)
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class StartError(CtvaeError):
    """The run could not start: usage, paths, settings or bundle. Exit code 3."""


class RunFailed(CtvaeError):
    """The run as a whole ended badly after its start. Exit code 1."""


class SeriesError(CtvaeError):
    """One series goes no further; the others do."""

    status: Status = "failed"


class SeriesRejected(SeriesError):
    """CT that failed the geometry gate: encoding it would give wrong numbers in silence."""

    status: Status = "rejected"


class SeriesSkipped(SeriesError):
    """Not a CT image, or dropped by a selection rule."""

    status: Status = "skipped"


class SeriesFailed(SeriesError):
    """An error of ours or of the machine."""

    status: Status = "failed"


def check_noun(holds: bool, found: str) -> None:
    """Raise for a noun that contradicts itself: an error of ours, never of the input."""
    if not holds:
        raise ValueError(f"found {found}")
