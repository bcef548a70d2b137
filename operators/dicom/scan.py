"""The first bytes of a plain DICOM file → the elements to read, several times as fast as a general reader.

Nearly all files are plain: PS3.10 with preamble and group 0002, then explicit or implicit VR little endian, with
everything up to the pixels within the bytes at hand. For anything else it gives up, and pydicom reads the file: nothing
is guessed here. `tests/operators/dicom/test_scan.py` compares both on every real file.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from struct import error as struct_error
from typing import Final

from operators.dicom.file_format import found_encoding

SCANNED_BYTES: Final = 32 * 1024
"""Bytes read from a file: headers of CT slices have 2 to 20 KiB."""

_IMPLICIT: Final = "1.2.840.10008.1.2"
_NOT_PLAIN: Final = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", ""})
_LONG_VRS: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_SHORT_VRS: Final = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"}
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DEEPEST: Final = 8
_explicit, _implicit, _uint32 = Struct("<HH2sH").unpack_from, Struct("<HHI").unpack_from, Struct("<I").unpack_from


@dataclass(frozen=True, slots=True)
class Scanned:
    """Elements as they stand in the file, (tag, VR, value); VR is None where it is implicit.

    Attributes:
        meta: all of group 0002.
        elements: the requested elements of the data set whose value is bytes, in order.
        implicit: whether the data set is implicit VR.
        stop: offset of the tag at which the scan stopped.
        stop_tag: that tag; 0 at the end of the file.
    """

    meta: list[tuple[int, str | None, bytes]]
    elements: list[tuple[int, str | None, bytes]]
    implicit: bool
    stop: int
    stop_tag: int


class _NotPlain(Exception):
    """The file has something that is left to pydicom."""


def scan_elements(data: bytes, wanted: frozenset[int], stops: frozenset[int], *, whole: bool) -> Scanned | None:
    """Return the requested elements of a file, up to the first of the stops; None where the file is not plain.

    Args:
        data: the first bytes of the file.
        wanted: tags to return, (group << 16) + element.
        stops: tags that end the scan, including those of the pixels.
        whole: whether `data` is the whole file; if not, the result is None unless the scan reaches a stop.
    """
    try:
        return _scan(data, wanted, stops, whole)
    except (_NotPlain, ValueError, struct_error):
        return None


def _scan(data: bytes, wanted: frozenset[int], stops: frozenset[int], whole: bool) -> Scanned:
    if data[128:132] != b"DICM":
        raise _NotPlain
    meta: list[tuple[int, str | None, bytes]] = []
    syntax, place, end = "", 132, len(data)
    while True:
        group, element, vr, length = _explicit(data, place)
        if group != 2:
            break
        place, length = _explicit_value(data, place, vr, length)
        value = data[place : place + length]
        if length == _UNDEFINED or len(value) != length:
            raise _NotPlain
        meta.append((group << 16 | element, vr.decode(), value))
        if element == 0x0010:
            syntax = value.rstrip(b" \0").decode("ascii")
        place += length
    if syntax in _NOT_PLAIN:
        raise _NotPlain
    implicit, little = found_encoding(data[place : place + 6], syntax == _IMPLICIT, True)
    if not little:
        raise _NotPlain
    elements: list[tuple[int, str | None, bytes]] = []
    before = 0
    while place < end:
        if end - place < 12:
            raise _NotPlain
        vr_name: str | None = None
        if implicit:
            group, element, length = _implicit(data, place)
            value_at, vr = place + 8, b""
        else:
            group, element, vr, length = _explicit(data, place)
            value_at, length = _explicit_value(data, place, vr, length)
            vr_name = vr.decode()
        tag = group << 16 | element
        if tag in stops:
            return Scanned(meta, elements, implicit, place, tag)
        if tag <= before:
            raise _NotPlain
        before = tag
        if length == _UNDEFINED:
            place = _after_sequence(data, value_at, implicit, vr, 0)
            if tag in wanted:
                raise _NotPlain
            continue
        place = value_at + length
        if place > end:
            raise _NotPlain
        if tag in wanted:
            if vr == b"SQ":
                raise _NotPlain
            elements.append((tag, vr_name, data[value_at:place]))
    if not whole or place != end:
        raise _NotPlain
    return Scanned(meta, elements, implicit, place, 0)


def _explicit_value(data: bytes, place: int, vr: bytes, length: int) -> tuple[int, int]:
    """Return where the value of an element with explicit VR begins, and its length (PS3.5 7.1.2)."""
    if vr in _SHORT_VRS:
        return place + 8, length
    if vr not in _LONG_VRS:
        raise _NotPlain
    return place + 12, _uint32(data, place + 8)[0]


def _after_sequence(data: bytes, place: int, implicit: bool, vr: bytes, depth: int) -> int:
    """Return the offset after a sequence of undefined length (PS3.5 7.5), skipping its items."""
    if vr not in (b"SQ", b"") or depth > _DEEPEST:
        raise _NotPlain  # UN of undefined length is implicit inside, and an encapsulated value is not skipped
    while True:
        group, element, length = _implicit(data, place)
        tag, place = group << 16 | element, place + 8
        if tag == _SEQUENCE_END:
            return place
        if tag != _ITEM:
            raise _NotPlain
        place = place + length if length != _UNDEFINED else _after_item(data, place, implicit, depth)


def _after_item(data: bytes, place: int, implicit: bool, depth: int) -> int:
    """Return the offset after an item of undefined length."""
    while True:
        group, element, length = _implicit(data, place)
        if group << 16 | element == _ITEM_END:
            return place + 8
        vr = b""
        if implicit:
            place += 8
        else:
            vr, length = _explicit(data, place)[2:]
            place, length = _explicit_value(data, place, vr, length)
        place = _after_sequence(data, place, implicit, vr, depth + 1) if length == _UNDEFINED else place + length
