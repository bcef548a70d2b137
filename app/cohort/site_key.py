"""The site's key of a cohort: from the settings, else made once and kept beside the index."""

from __future__ import annotations

import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from app.process import starting
from operators.errors import StartError

logger = logging.getLogger(__name__)

KEY_FILE: Final = "site.key"
_PRIVATE: Final = 0o600


@starting()
def site_key(folder: Path) -> bytes:
    """Return the key that is kept in a folder; where there is none, make one that only its owner can read.

    Raises:
        StartError: `BAD_SITE_KEY`: the file is empty, a link, or readable by others; `NOT_ACCESSIBLE`.
    """
    file = folder / KEY_FILE
    if not file.exists():
        _make(file)
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), "rb") as opened:
        mode = os.fstat(opened.fileno()).st_mode & 0o777
        key = opened.read().strip()
    if mode & ~_PRIVATE or not key:
        found = f"{file.name} beside the index has mode {mode:o} and {len(key)} bytes"
        raise StartError("BAD_SITE_KEY", f"{found}; expected a key that only its owner can read (chmod 600)")
    return key


def _make(file: Path) -> None:
    """Make the file whole or not at all."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.partial")
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _PRIVATE), "w") as opened:
            opened.write(secrets.token_hex(32) + "\n")
            opened.flush()
            os.fsync(opened.fileno())
        with suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    logger.info("made a site key for patient_key: %s beside the index; back it up, and keep it secret", file.name)
