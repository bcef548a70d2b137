"""The files of one result → a folder in which people and programs look for them, as `ctvae encode` lays it out."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from app.pacs.destination import Destination
from app.pacs.judge import Answer, Verdict
from operators.errors import SeriesFailed
from operators.results.atomic import make_folder, write_together
from operators.write_features import sr_file

COPIED: Final = "COPIED"
_FALLBACK: Final = sr_file("comprehensive")  # lies beside the SR for a PACS that does not take that


def copy_out(destination: Destination, sr: Path) -> Answer:
    """Copy a result; all of its files, or none.

    Args:
        destination: of kind `folder`.
        sr: of the result; its JSON and what else was made lie beside it.
    """
    folder = Path(destination.path or "") / sr.parent.name
    files = [file for file in sr.parent.iterdir() if file.is_file() and file.name != _FALLBACK]
    try:
        make_folder(folder)
        write_together({folder / file.name: file.read_bytes() for file in files})
    except (OSError, SeriesFailed) as error:
        cause = error.__cause__ if isinstance(error, SeriesFailed) else error
        return Answer(Verdict.RETRY, None, f"OUTPUT_UNWRITABLE ({getattr(cause, 'strerror', None)})")
    return Answer(Verdict.DELIVERED, COPIED)
