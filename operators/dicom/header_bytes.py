"""The bytes before the pixels, with limits: how much may be read, and how to skip sequences that are not needed.

pydicom makes an object for each element of a sequence of undefined length (PS3.5 7.5), needed or not: 32 MB of empty
ones took 18 s and 1.4 GB. This module skips and counts them. Measured maxima of 2,167 public CT, RTSTRUCT, MR,
Secondary
Capture and DICOMDIR files: 353 reads, 179 elements skipped, 128 bytes in a value.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_partial
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from operators.dicom.file_format import found_encoding

MAX_VALUE_BYTES: Final = 1 << 20
"""Limit for one value: descriptions and lists of numbers have some hundred bytes."""

MAX_READS: Final = 1 << 18
"""Limit for reads of a header: each element at the top level takes two or three."""

MAX_ELEMENTS: Final = 1 << 21
"""Limit for elements in a header's sequences, skipped in about three seconds: 100 per frame for 20,000 frames."""

MAX_NESTED: Final = 1 << 20
"""Limit for elements in a multi-frame header, which pydicom parses in 5 s and 400 MB: 100 per frame for 10,000."""

MAX_DEPTH: Final = 64
"""Limit for nested sequences: an SR of an echo has about ten levels."""

UNDEFINED: Final = 0xFFFFFFFF

_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_LONG_VRS: Final = frozenset(str(vr).encode() for vr in EXPLICIT_VR_LENGTH_32)


def in_pieces(
    source: BinaryIO, tags: Sequence[int], stops: Collection[int], over: Collection[int] = ()
) -> tuple[Encoded, list[FileDataset | Dataset], int]:
    """Read the elements of a data set up to its pixels with pydicom, skipping those of undefined length.

    Args:
        source: the file; afterwards it is at the first of the stops.
        tags: tags of the elements to return.
        stops: tags that end the header.
        over: tags of sequences to skip whatever their length, counting all they hold.

    Returns:
        The meta information and the encoding of the data set; all that pydicom reads, piece by piece; and the number
        of elements skipped.

    Raises:
        ValueError: more than a header can have; and everything that pydicom raises on inconsistent bytes.
    """
    file: Any = HeaderFile(source)
    encoded = _encoding(file)
    pieces: list[FileDataset | Dataset] = []
    counted = 0
    while True:
        stop = _Stop(stops, over)
        piece = read_dataset(file, encoded.implicit, encoded.little, stop_when=stop, specific_tags=list(tags))
        pieces.append(piece)
        if not stop.to_step_over:
            return encoded, pieces, counted
        counted = step_over(source, encoded.little, encoded.implicit, counted, deep=bool(over))


def read_whole(data: bytes, tags: Sequence[int], stops: Collection[int]) -> Dataset:
    """Read sequences and other elements with pydicom, after counting them.

    Args:
        data: the file up to its pixels.
        tags: tags of the elements to return.
        stops: tags that end the header.

    Raises:
        ValueError: more than `MAX_NESTED` elements; and everything that pydicom raises on inconsistent bytes.
    """
    *_, counted = in_pieces(io.BytesIO(data), tags, stops, tags)
    if counted > MAX_NESTED:
        raise ValueError(f"{counted} elements in sequences; expected at most {MAX_NESTED}")
    file: Any = HeaderFile(io.BytesIO(data), len(data), 4 * MAX_NESTED)
    encoded, stop = _encoding(file), _Stop(stops, (), undefined=False)
    return read_dataset(file, encoded.implicit, encoded.little, stop_when=stop, specific_tags=list(tags))


@dataclass(frozen=True, slots=True)
class Encoded:
    """The meta information of a file, and the actual encoding of its data set, whatever the transfer syntax says.

    Attributes:
        meta: group 0002, not converted.
        implicit: whether elements have no VR.
        little: whether the byte order is little endian.
    """

    meta: FileMetaDataset
    implicit: bool
    little: bool


def _encoding(file: Any) -> Encoded:
    """Read the meta information; afterwards the file is at the first element of the data set."""
    raw = read_partial(file, lambda *_: True, force=True)
    implicit, little = raw.original_encoding
    place = file.tell()
    found = found_encoding(file.read(6), bool(implicit), bool(little))
    file.seek(place)
    return Encoded(raw.file_meta, *found)


class _Stop:
    """Tells pydicom to stop at the pixels, and at elements of undefined length, which it would parse."""

    def __init__(self, stops: Collection[int], over: Collection[int], undefined: bool = True) -> None:
        self._stops, self._over, self._undefined, self.to_step_over = stops, over, undefined, False

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag in self._stops:
            self.to_step_over = False
            return True
        self.to_step_over = tag in self._over or (self._undefined and length == UNDEFINED)
        return self.to_step_over


class HeaderFile:
    """An open file that hides its name, which pydicom puts into warnings, and that returns no more than a header has.

    A broken length asks for 4 GB, and pydicom inflates data by itself unless it is stopped.
    """

    def __init__(self, file: BinaryIO, max_bytes: int = MAX_VALUE_BYTES, max_reads: int = MAX_READS) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell
        self._max_bytes, self._reads_left = max_bytes, max_reads
        file.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes.

        Raises:
            ValueError: more than `max_bytes`, or more than `max_reads` reads.
        """
        self._reads_left -= 1
        if not 0 <= size <= self._max_bytes or self._reads_left < 0:
            raise ValueError("a header with too long a value, or with too many values")
        return self._file.read(size)


@dataclass(slots=True)
class _Open:
    """A sequence or item whose end has not been reached yet.

    Attributes:
        items: whether it holds items rather than elements.
        end: where it ends in the file; None where a delimiter marks the end.
        implicit: whether its elements have no VR; None where its first element will show it.
    """

    items: bool
    end: int | None
    implicit: bool | None


def step_over(file: BinaryIO, little: bool, implicit: bool, counted: int = 0, *, deep: bool = False) -> int:
    """Move from the tag of an element of undefined length, such as a sequence, to what follows it or the end of file.

    Args:
        file: at the tag.
        little: whether the byte order is little endian.
        implicit: whether the data set is implicit VR.
        counted: elements and items skipped so far.
        deep: whether to count the content of sequences of defined length too.

    Returns:
        `counted` plus the elements and items skipped here.

    Raises:
        ValueError: it is not a sequence, or it exceeds `MAX_ELEMENTS` or `MAX_DEPTH`.
    """
    order = "<" if little else ">"
    within = [_Open(False, file.tell() + 1, implicit or None)]  # like an item that ends with its first element
    while within:
        inner = within[-1]
        if inner.end is not None and file.tell() >= inner.end:
            within.pop()
            continue
        if len(head := file.read(8)) < 8:
            break
        counted += 1
        if counted > MAX_ELEMENTS or len(within) > MAX_DEPTH:
            raise ValueError("sequences without end")
        group, element, length = struct.unpack(f"{order}HHI", head)
        tag = group << 16 | element
        if tag in (_ITEM_END, _SEQUENCE_END):
            if inner.end is not None or inner.items != (tag == _SEQUENCE_END):
                raise ValueError("an end without a beginning")
            within.pop()
        elif inner.items:
            if tag != _ITEM:
                raise ValueError("a sequence without items")
            _enter(within, file, length, _Open(False, None, implicit or None), deep)
        else:
            length, nested = _length(file, head, length, inner, order)
            _enter(within, file, length, _Open(True, None, None), deep and nested)
    return counted


def _enter(within: list[_Open], file: BinaryIO, length: int, what: _Open, deep: bool) -> None:
    """Enter an element of undefined length, or one to be counted, and skip any other."""
    if length == UNDEFINED:
        within.append(what)
    elif deep:
        what.end = file.tell() + length
        within.append(what)
    else:
        file.seek(length, io.SEEK_CUR)


def _length(file: BinaryIO, head: bytes, length: int, inner: _Open, order: str) -> tuple[int, bool]:
    """Return the length of an element's value, and whether it looks like a sequence; VRs may lack (PS3.5 6.2.2)."""
    vr = head[4:6]
    explicit = vr.isalpha() and vr.isupper()
    if inner.implicit is None:
        inner.implicit = not explicit
    if inner.implicit or not explicit:
        nested = True
    elif vr in _LONG_VRS:
        long = file.read(4)
        length, nested = struct.unpack(f"{order}I", long)[0] if len(long) == 4 else 0, vr in (b"SQ", b"UN")
    else:
        return struct.unpack_from(f"{order}H", head, 6)[0], False
    if length == UNDEFINED or not nested or length < 8:
        return length, False
    first = file.read(4)
    file.seek(-len(first), io.SEEK_CUR)
    return length, first == struct.pack(f"{order}HH", _ITEM >> 16, _ITEM & 0xFFFF)
