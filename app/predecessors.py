"""The earlier SRs that a run is given, whose place its own take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from app.settings import starting
from operators.errors import CtvaeError, StartError
from operators.sr.predecessor import Predecessor, read_predecessor


@starting()
def read_predecessors(files: Sequence[Path]) -> dict[tuple[str, int | None], Predecessor]:
    """Read earlier SRs, by the series and part that each measured.

    Raises:
        StartError: `NOT_DICOM`, `NOT_OUR_SR`, `BROKEN_SR`; `SEVERAL_PREDECESSORS`: two measured one series.
    """
    found = dict[tuple[str, int | None], Predecessor]()
    for file in files:
        try:
            one = read_predecessor(file)
        except CtvaeError as error:
            raise StartError(error.reason, f"predecessor {file.name}: {error.message}") from error
        if one.of in found:
            text = f"predecessor {file.name} is a second one of series {one.of[0]}; give the last one alone"
            raise StartError("SEVERAL_PREDECESSORS", text)
        found[one.of] = one
    return found
