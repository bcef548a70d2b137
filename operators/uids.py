"""Digests of files and values, and UIDs derived from digests: the same input always gives the same ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def file_sha256(path: Path, offset: int = 0) -> str:
    """Return the SHA-256, in hex, of a file from a byte offset on.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(offset)
        return hashlib.file_digest(file, "sha256").hexdigest()


def values_sha256(values: NDArray[np.float32]) -> str:
    """Return the SHA-256, in hex, of values as little-endian float32."""
    return hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()


def uid_from_digest(digest: str) -> str:
    """Return a UID of the form `2.25.<number>` (PS3.5 B.2) from the first 128 bits of a hex digest."""
    return f"2.25.{int(digest[:32], 16)}"
