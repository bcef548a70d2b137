"""The errors that end a run or a series, each with a reason code and a one-line message."""

from __future__ import annotations

from typing import Literal

from operators.printable import printable

Status = Literal["written", "eligible", "rejected", "skipped", "failed"]


class CtvaeError(Exception):
    """What went wrong, with a reason code for scripts and one line for a person.

    Attributes:
        reason: upper-case code, such as `MISSING_SLICE`.
        message: what was found, what was expected, what to do; no patient identity, no path outside the input.
    """

    def __init__(self, reason: str, message: str) -> None:
        # Parts of the message may come from a file, and could start a new line in the log or steer a terminal.
        message = printable(message)
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class StartError(CtvaeError):
    """The run could not start: usage, paths, settings or bundle. Exit code 3."""


class RunFailed(CtvaeError):
    """The run as a whole failed after its start. Exit code 1."""


class SeriesError(CtvaeError):
    """One series ends here; the others go on."""

    status: Status = "failed"


class SeriesRejected(SeriesError):
    """A CT series that failed the geometry gate: encoding it would silently give wrong numbers."""

    status: Status = "rejected"


class SeriesSkipped(SeriesError):
    """A series that is not CT images, or that a selection rule dropped."""

    status: Status = "skipped"


class SeriesFailed(SeriesError):
    """An error of ctvae or of the machine."""

    status: Status = "failed"


def check_noun(holds: bool, found: str) -> None:
    """Raise for a noun that contradicts itself, which is always an error of ctvae, never of the input."""
    if not holds:
        raise ValueError(f"found {found}")
