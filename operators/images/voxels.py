"""The voxels of a NIfTI, NRRD or MetaImage file → int16 HU in an unnamed temporary file, and what was found.

They are unpacked once, piece by piece, and checked on the way. A packed stream cannot be read from its middle, so
slices cannot be read on demand from the file itself; and that file may change meanwhile, the temporary one cannot.
Memory stays below `PIECE_VOXELS` × about 40 bytes, whatever the file holds or claims.
"""

from __future__ import annotations

import bz2
import gzip
import os
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from operators.dicom.decode_slice import LOWEST_HU
from operators.dicom.pixel_format import AIR_HU
from operators.errors import SeriesFailed, SeriesRejected, SeriesSkipped
from operators.images.header import ImageHeader
from operators.instance import ImageFile
from operators.types import Finding

PIECE_VOXELS: Final = 1 << 20
_PIECE_BYTES: Final = 1 << 22

HIGHEST_LABEL: Final = 255
"""Whole numbers from 0 to this one may be labels: CT in HU is negative somewhere."""

MOST_CHANGES: Final = 0.5
"""Share of equal pairs among non-zero neighbours: labels are mostly equal, grey values mostly not."""

AIR_BELOW_HU: Final = -400.0
"""Between this and `LOWEST_HU` lie lung, gas in the bowel, and the air around a body."""

LEAST_AIR: Final = 1e-4
"""Share of all voxels. A CT of a body has more air; an image whose zero is not water, or scaled to 0 … 1, has none."""

TISSUE_ABOVE_HU: Final = 100.0
"""Bone and contrast lie above: CT of a body reaches it; images scaled to -1 … 1 or to z-scores do not."""

DENSE_ABOVE_HU: Final = 4095.0
MOST_DENSE: Final = 0.05
"""Share of voxels above `DENSE_ABOVE_HU`, the end of twelve bits: metal is less; swapped bytes give more."""

MAX_EXPANSION: Final = 100
FREE_BYTES: Final = 1 << 26
"""Packed voxels may expand to 64 MiB, or to a hundred times their size. Beyond that, at most 64 MiB are unpacked, to
tell label maps from files that are rejected."""

_INT16: Final = np.iinfo(np.int16)


class Spool:
    """int16 values in an unnamed file that lasts as long as this object; may be read from several threads."""

    __slots__ = ("__weakref__", "_fd")

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            self._fd = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._fd)

    def append(self, values: NDArray[np.int16]) -> None:
        """Append values."""
        left = memoryview(values.tobytes())
        while left:
            left = left[os.write(self._fd, left) :]

    def read(self, first: int, count: int) -> NDArray[np.int16]:
        """Return `count` values starting at number `first`, as a new array."""
        values = np.empty(count, np.int16)
        left, place = values.data.cast("B"), 2 * first
        while left:
            got = os.preadv(self._fd, [left], place)
            if not got:
                raise EOFError("the temporary file is shorter than what was written")
            left, place = left[got:], place + got
        return values


@dataclass(slots=True)
class _Seen:
    """Statistics of the voxels, counted as they pass."""

    lowest: float = np.inf
    highest: float = -np.inf
    voxels: int = 0
    air: int = 0
    dense: int = 0
    below: int = 0
    saturated: int = 0
    rounded: int = 0
    neighbours: int = 0
    changes: int = 0

    def to_hu(self, stored: NDArray[Any], slope: float, intercept: float) -> NDArray[np.int16]:
        """Count a piece, and return it as HU: rounded half to even, clipped to int16, air below the CT scale."""
        exact = stored.astype(np.float64)
        if slope != 1 or intercept != 0:
            with np.errstate(over="ignore", invalid="ignore"):  # an absurd slope gives infinity, which is rejected
                exact *= slope
                exact += intercept
        low, high = float(exact.min()), float(exact.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise SeriesRejected(
                "NON_FINITE_VOXELS", "found NaN or infinity among the voxels; expected HU; write air (-1000) there"
            )
        self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        self.voxels += exact.size
        hu = np.rint(exact)
        if stored.dtype.kind == "f" or not (slope.is_integer() and intercept.is_integer()):
            self.rounded += int(np.count_nonzero(hu != exact))
        if self.highest <= HIGHEST_LABEL and self.lowest >= 0:
            both = (hu[1:] != 0) & (hu[:-1] != 0)
            self.neighbours += int(np.count_nonzero(both))
            self.changes += int(np.count_nonzero(both & (hu[1:] != hu[:-1])))
        self.air += int(np.count_nonzero((hu >= LOWEST_HU) & (hu < AIR_BELOW_HU)))
        if high > DENSE_ABOVE_HU:
            self.dense += int(np.count_nonzero(hu > DENSE_ABOVE_HU))
            self.saturated += int(np.count_nonzero(hu > _INT16.max))
        if low < LOWEST_HU:
            below = hu < LOWEST_HU
            self.below += int(np.count_nonzero(below))
            hu[below] = AIR_HU
        return np.clip(hu, _INT16.min, _INT16.max, out=hu).astype(np.int16)

    def check_labels(self) -> None:
        """Check that the voxels are not labels.

        Raises:
            SeriesSkipped: `LABEL_MAP`.
        """
        values = f"values from {self.lowest:g} to {self.highest:g}"
        like_labels = self.lowest >= 0 and self.highest <= HIGHEST_LABEL and not self.rounded
        if like_labels and self.changes <= MOST_CHANGES * self.neighbours:
            raise SeriesSkipped(
                "LABEL_MAP", f"found whole {values}, as of labels; expected HU; nothing to do for this file"
            )

    def check(self) -> None:
        """Check that the voxels are HU of a body.

        Raises:
            SeriesSkipped: `LABEL_MAP`.
            SeriesRejected: `NOT_HU`.
        """
        self.check_labels()
        values = f"values from {self.lowest:g} to {self.highest:g}"
        air = self.air / self.voxels
        if air < LEAST_AIR or self.highest < TISSUE_ABOVE_HU or self.dense > MOST_DENSE * self.voxels:
            raise SeriesRejected(
                "NOT_HU",
                f"found {values}, {100 * air:.2g} % of them air; expected HU, with air near -1000 and tissue above "
                f"{TISSUE_ABOVE_HU:g}; convert the file to HU",
            )

    def findings(self) -> Iterator[Finding]:
        """Yield a finding for each change made to the values."""
        if self.rounded:
            yield Finding("FRACTIONAL_HU", f"{self.rounded} voxels rounded half to even")
        if self.saturated:
            yield Finding("HU_SATURATED", f"{self.saturated} voxels above {_INT16.max} HU clipped")
        if self.below:
            yield Finding("BELOW_CT_SCALE", f"{self.below} voxels below {LOWEST_HU} HU set to {AIR_HU} HU")


def spool_hu(header: ImageHeader, image: ImageFile) -> tuple[Spool, tuple[Finding, ...]]:
    """Return all voxels as int16 HU, in the order of the file.

    Args:
        header: a checked header, whose shape is within the size limit.
        image: the file as it was found.

    Raises:
        SeriesRejected: `NOT_HU`, `NON_FINITE_VOXELS`, `UNSAFE_COMPRESSION`, `TRUNCATED_PIXELS`, `UNDECODABLE_PIXELS`.
        SeriesSkipped: `LABEL_MAP`.
        SeriesFailed: `FILE_CHANGED`.
        OSError: the file no longer exists, or there is no space for the temporary file.
    """
    spool, seen = Spool(), _Seen()
    with header.voxels.open("rb") as file:
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != image.stamp:
            raise SeriesFailed(
                "FILE_CHANGED", "the file has changed since it was found; run again when it no longer changes"
            )
        unfolded = _bytes_of(header)
        unsafe = header.encoding != "raw" and unfolded > max(FREE_BYTES, MAX_EXPANSION * status.st_size)
        for number, piece in enumerate(_pieces(header, file, status.st_size), 1):
            hu = seen.to_hu(np.frombuffer(piece, header.dtype), header.slope, header.intercept)
            if not unsafe:
                spool.append(hu)
            elif number * PIECE_VOXELS * header.dtype.itemsize >= FREE_BYTES:
                seen.check_labels()  # label maps often expand as much
                raise _unsafe(status.st_size, unfolded)
    seen.check()
    return spool, tuple(seen.findings())


def _bytes_of(header: ImageHeader) -> int:
    return int(np.prod(header.shape, dtype=np.int64)) * header.dtype.itemsize


def _unsafe(packed: int, unfolded: int) -> SeriesRejected:
    return SeriesRejected(
        "UNSAFE_COMPRESSION",
        f"the header says that {packed} packed bytes expand to {unfolded}; expected at most {MAX_EXPANSION} times as "
        "many; save the file unpacked",
    )


def _pieces(header: ImageHeader, file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the bytes of all voxels, `PIECE_VOXELS` at a time."""
    left = _bytes_of(header)
    start = size - left if header.start is None else header.start
    if start < 0 or (header.encoding == "raw" and start + left > size):
        raise _truncated(f"a file of {size} bytes; expected {max(start, 0) + left}")
    file.seek(start)
    stream = _unpacked(header, file)
    try:
        skipped = header.skipped
        while skipped:
            if not (passed := len(stream.read(min(skipped, _PIECE_BYTES)))):
                raise _truncated("no voxels")
            skipped -= passed
        while left:
            piece = _exactly(stream, min(left, PIECE_VOXELS * header.dtype.itemsize))
            if len(piece) % header.dtype.itemsize or not piece:
                raise _truncated(f"{left} bytes fewer")
            left -= len(piece)
            yield piece
        if header.encoding != "raw":
            stream.read(1)  # the checksum follows the data
    except (zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        if isinstance(error, EOFError):
            raise _truncated("packed data that end early") from error
        raise SeriesRejected(
            "UNDECODABLE_PIXELS", f"the packed voxels are damaged ({type(error).__name__}); get the file again"
        ) from error


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Inflated:
    """A zlib (or gzip) stream, as in MetaImage, that unpacks no more than requested."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._inflate = file, zlib.decompressobj(zlib.MAX_WBITS | 32)

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; empty at the end."""
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._file.read(1 << 16)
            plain = self._inflate.decompress(packed, size)
            if plain:
                return plain
            if not packed:
                raise EOFError("a zlib stream without an end")
        return b""


def _unpacked(header: ImageHeader, file: IO[bytes]) -> _Stream:
    if header.encoding == "gzip":
        return gzip.GzipFile(fileobj=file, mode="rb")
    if header.encoding == "bzip2":
        return bz2.BZ2File(file)
    return _Inflated(file) if header.encoding == "zlib" else file


def _exactly(stream: _Stream, size: int) -> bytes:
    """Return `size` bytes, or what is left before the end."""
    got: list[bytes] = []
    while size and (more := stream.read(min(size, _PIECE_BYTES))):
        got.append(more)
        size -= len(more)
    return b"".join(got)


def _truncated(found: str) -> SeriesRejected:
    return SeriesRejected("TRUNCATED_PIXELS", f"found {found} than its header says; get the file again")
