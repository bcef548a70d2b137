"""Exit codes of every command, of `python -m app` and of the container."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from operators.types import Outcome

WRITTEN = 0
FAILED = 1
NOTHING_WRITTEN = 2
COULD_NOT_START = 3


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """Return the exit code of a run from the outcomes of its series."""
    statuses = {outcome.status for outcome in outcomes}
    if "failed" in statuses:
        return FAILED
    return WRITTEN if statuses & {"written", "eligible"} else NOTHING_WRITTEN
