"""C-STORE as bytes: its request read, its response and the head of its file written (PS3.7 9.3.1, PS3.10 7.1).

pynetdicom makes a data set of each, and checks each value's representation, which takes a third of the time of a slice.
What is not exactly as nearly all peers send it is not read here, but left to pynetdicom.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from typing import Final

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

from app.pacs.request import P_DATA
from app.pacs.spool import is_safe_uid

LONGEST_RESPONSE: Final = 512
"""More than a P-DATA-TF with a response has: two UIDs, a comment of 64 characters and 100 bytes."""

_CLASS, _FIELD, _MESSAGE_ID, _RESPONDED_TO, _PRIORITY = 0x0002, 0x0100, 0x0110, 0x0120, 0x0700
_DATA_SET_TYPE, _STATUS, _COMMENT, _INSTANCE, _ORIGINATOR, _ORIGINATOR_ID = (
    0x0800,
    0x0900,
    0x0902,
    0x1000,
    0x1030,
    0x1031,
)
_NEEDED: Final = frozenset({_CLASS, _FIELD, _MESSAGE_ID, _DATA_SET_TYPE, _INSTANCE})
_KNOWN: Final = _NEEDED | {_PRIORITY, _ORIGINATOR, _ORIGINATOR_ID}
_STORE_RQ, _STORE_RSP, _NO_DATA_SET = b"\x01\x00", 0x8001, 0x0101
_element = struct.Struct("<HHI")
_COMMAND: Final = 3
"""Message control header of a command in one fragment (PS3.8 E.2)."""


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """What a C-STORE request says.

    Attributes:
        message_id: that the response names.
        sop_class_uid: AffectedSOPClassUID.
        sop_uid: AffectedSOPInstanceUID.
        originator: AE title of whose C-MOVE led to it; empty where nobody's did.
    """

    message_id: int
    sop_class_uid: str
    sop_uid: str
    originator: str = ""


@dataclass(frozen=True, slots=True)
class StoreAnswer:
    """What is answered.

    Attributes:
        status: 0 for success.
        comment: why it was not stored (PS3.7 C: LO of at most 64 characters).
    """

    status: int
    comment: str = ""

    def __post_init__(self) -> None:
        """Make the comment as long as is allowed at most."""
        object.__setattr__(self, "comment", self.comment[:64])


def read_store_request(command: bytes) -> StoreRequest | None:
    """Return what a command set says; None where it is another one, or another form than the usual one."""
    try:
        values = dict(_elements(command))
        if not _NEEDED <= values.keys() <= _KNOWN or values[_FIELD] != _STORE_RQ:
            return None
        (message_id,), (data_set_type,) = (struct.unpack("<H", values[one]) for one in (_MESSAGE_ID, _DATA_SET_TYPE))
        texts = [values.get(one, b"").decode("ascii") for one in (_CLASS, _INSTANCE, _ORIGINATOR)]
    except (struct.error, ValueError):
        return None
    sop_class, instance, originator = texts[0].removesuffix("\0"), texts[1].removesuffix("\0"), texts[2].strip()
    if data_set_type == _NO_DATA_SET or not (is_safe_uid(sop_class) and is_safe_uid(instance)):
        return None
    return StoreRequest(message_id, sop_class, instance, originator)


def _elements(command: bytes) -> list[tuple[int, bytes]]:
    """Return element numbers of group 0000 and values, implicit VR little endian, without the group length.

    Raises:
        ValueError: other groups, not in ascending order, or not as long as they say.
    """
    at, last, found = 12, 0, list[tuple[int, bytes]]()
    if command[:12] != _element.pack(0, 0, 4) + struct.pack("<I", len(command) - 12):
        raise ValueError("group length")
    while at < len(command):
        group, element, length = _element.unpack_from(command, at)
        at += 8 + length
        if group or element <= last or at > len(command):
            raise ValueError("an element")
        found.append((element, command[at - length : at]))
        last = element
    return found


def store_response(request: StoreRequest, answer: StoreAnswer, context_id: int) -> bytes:
    """Return the P-DATA-TF PDU (PS3.8 9.3.5) with the response to a request."""
    comment = answer.comment.encode("ascii", "replace")
    values = [
        (_CLASS, _padded(request.sop_class_uid, "\0")),
        (_FIELD, struct.pack("<H", _STORE_RSP)),
        (_RESPONDED_TO, struct.pack("<H", request.message_id)),
        (_DATA_SET_TYPE, struct.pack("<H", _NO_DATA_SET)),
        (_STATUS, struct.pack("<H", answer.status)),
        *([(_COMMENT, comment + b" " * (len(comment) % 2))] if comment else []),
        (_INSTANCE, _padded(request.sop_uid, "\0")),
    ]
    command = b"".join(_element.pack(0, element, len(value)) + value for element, value in values)
    length = len(command) + 12
    head = struct.pack(">BBIIBB", P_DATA, 0, length + 6, length + 2, context_id, _COMMAND)
    return head + _element.pack(0, 0, 4) + struct.pack("<I", len(command)) + command


def file_head(request: StoreRequest, transfer_syntax: str) -> bytes:
    """Return preamble and meta information of a request's file, the same that pynetdicom writes (PS3.10 7.1)."""
    uids = (0x0002, request.sop_class_uid), (0x0003, request.sop_uid), (0x0010, transfer_syntax)
    content = (
        _VERSION + b"".join(_meta(element, b"UI", _padded(uid, "\0")) for element, uid in uids) + _implementation()
    )
    return bytes(128) + b"DICM" + _meta(0x0000, b"UL", struct.pack("<I", len(content))) + content


@cache
def _implementation() -> bytes:
    uid, version = _padded(PYNETDICOM_IMPLEMENTATION_UID, "\0"), _padded(PYNETDICOM_IMPLEMENTATION_VERSION, " ")
    return _meta(0x0012, b"UI", uid) + _meta(0x0013, b"SH", version)


def _meta(element: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


def _padded(text: str, pad: str) -> bytes:
    return (text + pad * (len(text) % 2)).encode("ascii")


_VERSION: Final = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1"
