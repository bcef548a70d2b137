"""A file that is arriving, before the spool gives it a name."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from app.pacs.hooks import passing

_CHECK_SPACE_BYTES: Final = 4 << 20
_BUFFER_BYTES: Final = 1 << 16
"""Less than the PDU that we offer, which so is written without a copy; more than 16 KiB, which most peers send."""

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Incoming:
    """A file that is arriving, in the form in which pynetdicom writes one (`tempfile.NamedTemporaryFile`).

    A full disk must not end the association: what does not fit is thrown away, and the handler answers A700.

    Attributes:
        path: where it is.
        name: the same as text.
        size: bytes that came.
        refused: why it is thrown away; None where all of it was written.
        writer: the thread that writes it.
    """

    def __init__(self, path: Path, has_room: Callable[[], bool], max_bytes: int) -> None:
        """Open it.

        Args:
            path: where nothing is yet.
            has_room: whether its file system has room for more.
            max_bytes: a longer file is thrown away.
        """
        self.path, self.name, self.size, self.refused = path, str(path), 0, None if has_room() else "full"
        self.writer, self._checked = threading.current_thread(), 0
        self._has_room, self._max_bytes = has_room, max_bytes
        self._sha256 = hashlib.sha256()
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except OSError:
            self.refused, handle = "full", os.open(os.devnull, os.O_WRONLY)
        self._file = os.fdopen(handle, "wb", buffering=_BUFFER_BYTES)

    @property
    def file(self) -> Unflushed:
        """What pynetdicom flushes after each fragment: not this file, for that costs a system call each."""
        return Unflushed()

    @property
    def digest(self) -> str:
        """SHA-256 of what was written, in hex."""
        return self._sha256.hexdigest()

    def write(self, data: bytes | memoryview) -> int:
        """Write more of it, or pass over it where it does not fit."""
        self.size += len(data)
        if self.refused is None:
            try:
                self._check()
                self._file.write(data)
                self._sha256.update(data)
            except OSError as error:
                self._refuse("full" if error.errno in _FULL else "unwritable")
        return len(data)

    def flush(self) -> None:
        """Flush the file, for readers that open it by its name.

        Raises:
            OSError: the disk is full.
        """
        self._file.flush()

    def tell(self) -> int:
        """Return the number of bytes that came."""
        return self.size

    def close(self) -> None:
        """Close the file; what is buffered is written, if it can be."""
        with suppress(OSError):
            self._file.close()

    def to_disk(self) -> None:
        """Write all of it to the disk (fsync).

        Raises:
            OSError: the disk is full.
        """
        self._file.flush()
        passing("receive.fsync.before")
        os.fsync(self._file.fileno())
        passing("receive.fsync.after")

    def discard(self) -> None:
        """Remove the temporary file; what was kept has a name of its own by now."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _check(self) -> None:
        if self.size > self._max_bytes:
            self._refuse("too long")
        elif self.size - self._checked >= _CHECK_SPACE_BYTES:
            self._checked = self.size
            if not self._has_room():
                self._refuse("full")
        if self.refused:
            raise OSError(errno.ENOSPC, self.refused)

    def _refuse(self, why: str) -> None:
        self.refused = self.refused or why
        with suppress(OSError):
            os.ftruncate(self._file.fileno(), 0)


class Unflushed:
    """Something that can be flushed, and is not."""

    def flush(self) -> None:
        """Return at once; there is nothing to flush."""
