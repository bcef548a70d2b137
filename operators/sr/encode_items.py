"""Content items → bytes in Explicit VR Little Endian (PS3.5 7.1.2), sequences and items with explicit lengths.

An SR of 64 numbers has some 3,000 elements, nearly all of them repeated code sequences. Here each is a few joined
bytes; as pydicom elements, made, checked and written one by one, they took most of the time of a result. The tests read
every SR back with pydicom, highdicom, DCMTK and dciodvfy.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache

from operators.sr.content import Concept, Container, Graphic, ImageReference, Item, Number, Text, UidRef, Value

LONG_CODE = 16
"""A longer code value goes into Long Code Value."""

_SHORT_HEAD = struct.Struct("<HH2sH")
_LONG_HEAD = struct.Struct("<HH2sHI")
_ITEM = struct.Struct("<HHI")
_LONG_VRS = frozenset({b"SQ", b"UC", b"UT"})
_VALUE_TYPES = {
    Text: b"TEXT",
    UidRef: b"UIDREF",
    Number: b"NUM",
    ImageReference: b"IMAGE",
    Graphic: b"SCOORD",
    Container: b"CONTAINER",
    Concept: b"CODE",
}


Elements = dict[int, tuple[bytes, bytes]]
"""Tag → VR and value, in ascending order."""


def item_elements(item: Item, encoding: str) -> Elements:
    """Return the elements of a content item, including all its children.

    Args:
        item: any item; for a whole document, the root of its tree.
        encoding: Python's name for the character set of the file.
    """
    value = item.value
    elements: Elements = {}
    if isinstance(value, ImageReference):
        frame = b"" if value.frame is None else element(0x00081160, b"IS", str(value.frame).encode("ascii"))
        referred = reference(value.sop_class_uid, value.sop_instance_uid) + frame
        elements[0x00081199] = (b"SQ", sequence([referred]))
    if item.relationship:
        elements[0x0040A010] = (b"CS", item.relationship.encode("ascii"))
    elements[0x0040A040] = (b"CS", _VALUE_TYPES[type(value)])
    if item.name is not None:
        elements[0x0040A043] = (b"SQ", _code(item.name))
    elements |= _value(value, encoding)
    if item.children:
        below = [join(item_elements(child, encoding)) for child in item.children]
        elements[0x0040A730] = (b"SQ", sequence(below))
    if isinstance(value, Graphic):
        elements[0x00700022] = (b"FL", value.points.astype("<f4").tobytes())
        elements[0x00700023] = (b"CS", value.kind.encode("ascii"))
    return elements


def join(elements: Elements) -> bytes:
    """Join elements, which are in ascending order."""
    return b"".join([element(tag, vr, value) for tag, (vr, value) in elements.items()])


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """Return one data element as bytes; a value of odd length is padded."""
    length = len(value)
    if length % 2:
        value += b"\0" if vr == b"UI" else b" "
        length += 1
    if vr in _LONG_VRS:
        return _LONG_HEAD.pack(tag >> 16, tag & 0xFFFF, vr, 0, length) + value
    return _SHORT_HEAD.pack(tag >> 16, tag & 0xFFFF, vr, length) + value


def sequence(items: Iterable[bytes]) -> bytes:
    """Return the value of a sequence; each item is given as its elements."""
    return b"".join([_ITEM.pack(0xFFFE, 0xE000, len(item)) + item for item in items])


def reference(sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Return the elements of an item of a Referenced SOP Sequence."""
    return _sop_class(sop_class_uid) + element(0x00081155, b"UI", sop_instance_uid.encode("ascii"))


def _value(value: Value, encoding: str) -> Elements:
    """Return the elements between Concept Name and Content Sequence."""
    if isinstance(value, Container):
        elements: Elements = {0x0040A050: (b"CS", b"SEPARATE")}
        if value.template:
            template = element(0x00080105, b"CS", b"DCMR") + element(0x0040DB00, b"CS", value.template.encode("ascii"))
            elements[0x0040A504] = (b"SQ", sequence([template]))
        return elements
    if isinstance(value, UidRef):
        return {0x0040A124: (b"UI", value.uid.encode("ascii"))}
    if isinstance(value, Text):
        return {0x0040A160: (b"UT", value.text.encode(encoding))}
    if isinstance(value, Concept):
        return {0x0040A168: (b"SQ", _code(value))}
    if isinstance(value, Number):
        measured = element(0x004008EA, b"SQ", _code(value.unit))
        measured += element(0x0040A161, b"FD", struct.pack("<d", value.double))
        measured += element(0x0040A30A, b"DS", value.decimal.encode("ascii"))
        return {0x0040A300: (b"SQ", sequence([measured]))}
    return {}


@lru_cache(maxsize=4096)
def _code(concept: Concept) -> bytes:
    """Return the value of a code sequence."""
    value, long = concept.value.encode("ascii"), len(concept.value) > LONG_CODE
    named = element(0x00080102, b"SH", concept.scheme.encode("ascii"))
    named += element(0x00080104, b"LO", concept.meaning.encode("ascii"))
    if long:
        return sequence([named + element(0x00080119, b"UC", value)])
    return sequence([element(0x00080100, b"SH", value) + named])


@lru_cache(maxsize=64)
def _sop_class(uid: str) -> bytes:
    return element(0x00081150, b"UI", uid.encode("ascii"))
