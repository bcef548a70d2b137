"""A temporary folder that is gone afterwards, however the block ends: what lies in it may be images of patients."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def temporary_folder(prefix: str = "ctvae-", *, ignore_errors: bool = False) -> Iterator[Path]:
    """Yield a new folder; a Ctrl-C or SIGTERM that comes while it is removed is heard after that.

    `tempfile.TemporaryDirectory` leaves what it has not removed yet.

    Args:
        prefix: of its name.
        ignore_errors: leave what the system does not remove, instead of raising.
    """
    folder = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=ignore_errors)
    try:
        yield Path(folder.name)
    finally:
        try:
            folder.cleanup()
        except KeyboardInterrupt:
            folder.cleanup()
            raise
