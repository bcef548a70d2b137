"""A DICOM file reopened for its pixels: inflated if it is deflated, and checked to be the one whose header was read."""

from __future__ import annotations

import io
import os
import struct
import zlib
from functools import lru_cache
from pathlib import Path

from pydicom.uid import DeflatedExplicitVRLittleEndian

from operators.dicom.file_format import inflate
from operators.dicom.values import is_valid_uid
from operators.errors import SeriesFailed, SeriesRejected
from operators.instance import Instance

PlainFile = io.FileIO | io.BytesIO


def open_plain(instance: Instance) -> PlainFile:
    """Open a file, inflated if it is deflated, so that offsets lead to the pixels.

    Raises:
        SeriesFailed: `FILE_CHANGED`: it can no longer be inflated.
        OSError: the file cannot be read.
    """
    if instance.header.file_meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:
        return instance.path.open("rb", buffering=0)
    state = instance.path.stat()
    if instance.stamp and instance.stamp != (state.st_size, state.st_mtime_ns):
        raise changed(instance)
    try:
        return io.BytesIO(_inflated(instance.path, state.st_size, state.st_mtime_ns))
    except (ValueError, struct.error, zlib.error) as error:
        raise changed(instance) from error


# Only the last file is kept, which its frames share: more could fill the memory.
@lru_cache(maxsize=1)
def _inflated(path: Path, size: int, changed_ns: int) -> bytes:
    with path.open("rb") as file:
        return inflate(file)


def check_unchanged(instance: Instance, file: PlainFile) -> None:
    """Check that the file whose pixels were read is still the one whose header was read.

    Raises:
        SeriesFailed: `FILE_CHANGED`.
    """
    if instance.stamp and not isinstance(file, io.BytesIO):
        state = os.fstat(file.fileno())
        if instance.stamp != (state.st_size, state.st_mtime_ns):
            raise changed(instance)


def named(instance: Instance) -> str:
    """Return how messages refer to a slice or frame: never by its path, which may hold a name."""
    uid = instance.sop_instance_uid
    known = is_valid_uid(uid)
    if instance.frame and instance.frame.count > 1:
        return f"frame {instance.frame.index + 1} of {uid if known else 'a file without a valid UID'}"
    return f"slice {uid}" if known else "a slice without a valid UID"


def changed(instance: Instance) -> SeriesFailed:
    """Return the error for a file that has changed since its header was read."""
    return SeriesFailed("FILE_CHANGED", f"{named(instance)}: the file was changed while it was read; run again")


def rejected(instance: Instance, reason: str, found: str) -> SeriesRejected:
    """Return the error for a file whose pixels cannot be read."""
    return SeriesRejected(reason, f"{named(instance)}: {found}; get the file again")
