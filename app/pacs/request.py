"""The A-ASSOCIATE-RQ as it arrives, looked at before there is an association (PS3.8 9.3.2, 9.3.4).

An association takes two threads, and copies of all presentation contexts: too much for each of ten thousand strangers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from app.pacs.connection import Connection

MAX_REQUEST_BYTES: Final = 1 << 16
"""Of an A-ASSOCIATE-RQ: 128 presentation contexts with all transfer syntaxes take some 50 KiB."""

PDU_HEAD_BYTES: Final = 6
"""Type and length of any PDU (PS3.8 9.3.1)."""

P_DATA: Final = 4
"""Type of the PDU that carries commands and data sets (PS3.8 9.3.5)."""

_MIN_REQUEST_BYTES: Final = 68  # versions, titles and what is reserved beside them
_ASSOCIATE_RQ: Final = b"\1"


@dataclass(frozen=True, slots=True)
class Rejection:
    """Result, source and reason of an A-ASSOCIATE-RJ."""

    result: int
    source: int
    reason: int

    @property
    def pdu(self) -> bytes:
        """As it is sent."""
        return struct.pack(">BBIBBBB", 3, 0, 4, 0, self.result, self.source, self.reason)


CALLED_TITLE: Final = Rejection(1, 1, 7)
CALLING_TITLE: Final = Rejection(1, 1, 3)
LOCAL_LIMIT: Final = Rejection(2, 3, 2)
"""The peer may come again later."""


@dataclass(frozen=True, slots=True)
class Request:
    """An A-ASSOCIATE-RQ.

    Attributes:
        called: AE title, without spaces around it.
        calling: likewise.
    """

    called: str
    calling: str


def read_request(connection: Connection) -> Request | None:
    """Look at an A-ASSOCIATE-RQ; None where the peer says something else, something too long, or leaves.

    Raises:
        OSError: the connection broke.
    """
    if bytes(connection.ahead(1)) != _ASSOCIATE_RQ:  # another protocol is dropped at its first byte
        return None
    head = connection.ahead(PDU_HEAD_BYTES)
    length = int.from_bytes(head[2:], "big")
    if len(head) < PDU_HEAD_BYTES or not _MIN_REQUEST_BYTES <= length <= MAX_REQUEST_BYTES:
        return None
    pdu = connection.ahead(PDU_HEAD_BYTES + length)
    if len(pdu) < PDU_HEAD_BYTES + length:
        return None
    called, calling = (bytes(pdu[at : at + 16]).decode("ascii", "replace").strip() for at in (10, 26))
    return Request(called, calling)
