"""The earlier SRs given to a run, which its own SRs replace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from app.process import starting
from operators.errors import CtvaeError, StartError
from operators.sr.predecessor import Predecessor, read_predecessor


@starting()
def read_predecessors(files: Sequence[Path]) -> dict[tuple[str, int | None], Predecessor]:
    """Return earlier SRs, by the series and part that each describes.

    Raises:
        StartError: `NOT_DICOM`, `NOT_OUR_SR`, `BROKEN_SR`; `SEVERAL_PREDECESSORS`: two describe the same series.
    """
    found = dict[tuple[str, int | None], Predecessor]()
    for file in files:
        try:
            predecessor = read_predecessor(file)
        except CtvaeError as error:
            raise StartError(error.reason, f"predecessor {file.name}: {error.message}") from error
        if predecessor.described in found:
            found_twice = f"predecessor {file.name} is the second one for series {predecessor.described[0]}"
            raise StartError("SEVERAL_PREDECESSORS", f"{found_twice}; give only the last one")
        found[predecessor.described] = predecessor
    return found
