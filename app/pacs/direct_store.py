"""C-STORE in the thread that reads: data set fragments go from the connection's buffer into the spool's file.

pynetdicom makes a PDU, a primitive and a message of each fragment, hands the request to the association's thread, and
makes data sets of request and response. Here a request in its usual form is read, stored and answered at once. Whatever
else arrives, another form of the request included, is left to pynetdicom, which begins with the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from pynetdicom.association import Association
from pynetdicom.timer import Timer

from app.pacs.arrivals import Origin
from app.pacs.connection import Connection
from app.pacs.incoming import Incoming
from app.pacs.receive import Receiver
from app.pacs.request import P_DATA, PDU_HEAD_BYTES
from app.pacs.store_command import LONGEST_RESPONSE, StoreRequest, file_head, read_store_request, store_response

DATA_TRANSFER: Final = "Sta6"
"""The state of an association that is established (PS3.8 9.2.1)."""

_LOST, _MALFORMED = "Evt17", "Evt19"
_COMMAND, _LAST = 1, 2
_pdv = struct.Struct(">IBB")
Fragment = tuple[int, int, memoryview]
"""Presentation context ID, message control header and content of a presentation data value (PS3.8 E)."""


class _Ended(Exception):
    """What ends the association: an event of the state machine (PS3.8 9.2.2)."""


@dataclass(frozen=True, slots=True)
class _Arriving:
    """An instance of which a part has arrived."""

    request: StoreRequest
    context_id: int
    transfer_syntax: str
    incoming: Incoming


class DirectStore:
    """Takes the C-STORE requests of one association."""

    def __init__(
        self,
        assoc: Association,
        connection: Connection,
        receiver: Receiver,
        max_pdu_bytes: int,
        idle: Timer,
        send: Callable[[bytes], None],
    ) -> None:
        """Make it before the association's threads start.

        Args:
            assoc: that a peer asks for.
            connection: to read from.
            receiver: stores what arrives.
            max_pdu_bytes: a longer PDU is left to pynetdicom.
            idle: ends the association when it expires.
            send: sends a PDU, and does not raise.
        """
        self._assoc, self._connection, self._receiver = assoc, connection, receiver
        self._max_pdu_bytes, self._idle, self._send = max_pdu_bytes, idle, send
        self._contexts: dict[int, tuple[str, str]] | None = None
        self._arriving: _Arriving | None = None

    def take_pdu(self) -> bool:
        """Take the next PDU where it belongs to a C-STORE request; False leaves it to the state machine."""
        try:
            pdu = self._next_pdu()
            if pdu is None or not self._store(pdu):
                self._arriving = None  # the spool removes its file when the association has ended
                return False
            self._connection.drop(len(pdu))
            self._idle.restart()
        except _Ended as event:
            self._arriving = None
            self._assoc.dul.event_queue.put(str(event))
        finally:
            self._connection.storing = self._arriving is not None
        return True

    def _next_pdu(self) -> memoryview | None:
        """Return the P-DATA-TF PDU that comes next; None for another one, a part of one, or one for pynetdicom."""
        assoc, connection = self._assoc, self._connection
        if assoc.dul.state_machine.current_state != DATA_TRANSFER or not assoc.is_established or assoc.dimse.message:
            return None
        try:
            head = connection.ahead(PDU_HEAD_BYTES)
            length = int.from_bytes(head[2:], "big")
            if len(head) < PDU_HEAD_BYTES or head[0] != P_DATA or length > self._max_pdu_bytes:
                return None
            pdu = connection.ahead(PDU_HEAD_BYTES + length)
        except OSError as error:
            raise _Ended(_LOST) from error
        return pdu if len(pdu) == PDU_HEAD_BYTES + length else None

    def _store(self, pdu: memoryview) -> bool:
        """Take the fragments of a PDU; False where the first one begins no request that is taken here."""
        fragments = _fragments(pdu)
        if self._arriving is None:
            first = next(fragments, None)
            self._arriving = self._begin(*first) if first else None
            if self._arriving is None:
                return False
        for context_id, header, content in fragments:
            arriving = self._arriving
            if arriving is None or context_id != arriving.context_id or header & _COMMAND:
                raise _Ended(_MALFORMED)
            arriving.incoming.write(content)
            if header & _LAST:
                self._arriving = None
                self._finish(arriving)
        return True

    def _begin(self, context_id: int, header: int, content: memoryview) -> _Arriving | None:
        """Begin with the command of a request; None where pynetdicom is to judge it."""
        request = read_store_request(bytes(content)) if header & 3 == _COMMAND | _LAST else None
        sop_class, syntax = self._accepted().get(context_id, ("", ""))
        if request is None or request.sop_class_uid != sop_class:
            return None
        incoming = self._receiver.intake.spool.open_incoming()
        incoming.write(file_head(request, syntax))
        return _Arriving(request, context_id, syntax, incoming)

    def _accepted(self) -> dict[int, tuple[str, str]]:
        """Return class and transfer syntax of each context; none where our answer is longer than a PDU may be."""
        if self._contexts is None:
            longest = self._assoc.requestor.maximum_length or LONGEST_RESPONSE
            contexts = self._assoc.accepted_contexts if longest >= LONGEST_RESPONSE else []
            self._contexts = {
                one.context_id: (str(one.abstract_syntax), str(one.transfer_syntax[0]))
                for one in contexts
                if one.context_id is not None
            }
        return self._contexts

    def _finish(self, arriving: _Arriving) -> None:
        """Store what has arrived, and answer; the association is not idle meanwhile."""
        request, requestor = arriving.request, self._assoc.requestor
        self._connection.storing = False
        self._idle.stop()
        fetched = request.originator == self._assoc.ae.ae_title
        origin = Origin(requestor.ae_title.strip(), requestor.address, fetched)
        answer = self._receiver.receive(arriving.incoming.path, request, origin, arriving.transfer_syntax)
        self._send(store_response(request, answer, arriving.context_id))


def _fragments(pdu: memoryview) -> Iterator[Fragment]:
    """Yield the fragments of a P-DATA-TF PDU (PS3.8 9.3.5).

    Raises:
        _Ended: a length that leads out of the PDU.
    """
    at = PDU_HEAD_BYTES
    while at < len(pdu):
        if at + _pdv.size > len(pdu):
            raise _Ended(_MALFORMED)
        length, context_id, header = _pdv.unpack_from(pdu, at)
        end = at + 4 + length
        if length < 2 or end > len(pdu):
            raise _Ended(_MALFORMED)
        yield context_id, header, pdu[at + _pdv.size : end]
        at = end
