"""What an association reads from and writes to: bounded in what it takes, and waited for instead of polled.

As they come, both threads of an association look for something to do a thousand times a second, and on a busy machine
each nap cost 10 to 20 ms a slice. Here the reactor waits for the socket and the other thread for a message. A C-STORE
needs only the reactor: `DirectStore`.

The reactor alone uses the socket, because OpenSSL does not allow two threads in one TLS connection. (A read that comes
upon a key update writes; beside another write, the peer gets records that it cannot decrypt.) While an answer is owed,
the reactor waits for it and not for the socket.
"""

from __future__ import annotations

import errno
import queue
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Final

from pynetdicom import evt
from pynetdicom.transport import AssociationSocket

from app.pacs.connection import Connection
from app.pacs.direct_store import DirectStore
from app.pacs.receive import Receiver
from app.pacs.request import MAX_REQUEST_BYTES

WAIT_S: Final = 0.05
"""How long either thread waits before it looks whether it is to end."""

BEFORE_REQUEST: Final = ("Sta1", "Sta2")
"""The states before the A-ASSOCIATE-RQ, whose length the server has checked (PS3.8 9.2.1)."""


class GuardedSocket(AssociationSocket):
    """What an association reads from and writes to."""

    def __init__(
        self, replaced: AssociationSocket, connection: Connection, max_pdu_bytes: int, receiver: Receiver | None
    ) -> None:
        """Take the place of the socket that pynetdicom made, before its threads start.

        Args:
            replaced: its own constructor would tell the state machine of the connection once more.
            connection: to read from.
            max_pdu_bytes: a longer PDU ends the association.
            receiver: of C-STORE; None where none is accepted.
        """
        self.__dict__.update(vars(replaced))
        self._connection, self._max_pdu_bytes, self._owed = connection, max_pdu_bytes, False
        dul, messages = self.assoc.dul, _Messages()
        about = max_pdu_bytes, dul._idle_timer, self.send
        self._direct = receiver and DirectStore(self.assoc, connection, receiver, *about)
        dul._run_loop_delay = 0.0  # `ready` waits
        self.assoc.dimse.msg_queue = messages
        dul.to_user_queue = _Primitives(self._owe_answer, messages.nudge)
        self.assoc.bind(evt.EVT_DIMSE_RECV, lambda _: self._owe_answer())

    def _owe_answer(self) -> None:
        """Note that the peer sent a request, or asks to be let in or released: until that is answered, we owe it."""
        self._owed = True

    @property
    def ready(self) -> bool:
        """Whether there is something for the state machine to read; waits for it a while."""
        if self.socket is None or not self._is_connected:
            time.sleep(0.001)
            return False
        wait_s = WAIT_S
        if self._owed:
            answers = self.assoc.dul.to_provider_queue
            with answers.not_empty:
                if answers.queue or answers.not_empty.wait(WAIT_S):
                    return False  # it is sent first
            wait_s = 0.0
        return self._readable(self.socket, wait_s) and not (self._direct and self._direct.take_pdu())

    def _readable(self, connection: socket.socket, wait_s: float) -> bool:
        if self._connection.waiting or (isinstance(connection, ssl.SSLSocket) and connection.pending()):
            return True
        try:
            poll = select.poll()
            poll.register(connection, select.POLLIN)
            return bool(poll.poll(1000 * wait_s))
        except (OSError, ValueError):  # it was closed
            self.event_queue.put("Evt17")
            return False

    def recv(self, nr_bytes: int) -> bytearray:
        """Read so many bytes.

        Raises:
            OSError: a PDU that is too long; the association ends.
        """
        begun = self.assoc.dul.state_machine.current_state not in BEFORE_REQUEST
        longest = self._max_pdu_bytes if begun else MAX_REQUEST_BYTES
        if nr_bytes > longest:
            raise OSError(errno.EMSGSIZE, f"a PDU of {nr_bytes} bytes; expected at most {longest}")
        return self._connection.take(nr_bytes)

    def send(self, bytestream: bytes) -> None:
        """Send all of it; what was owed is answered."""
        self._owed = False
        super().send(bytestream)

    def _shutdown_socket(self) -> None:
        """Close it, also where the peer was faster: pynetdicom fails to shut it down then, and leaves it open."""
        super()._shutdown_socket()
        self._connection.socket.close()


class _Messages(queue.Queue[Any]):
    """Messages for the association's thread, which asks for them without wanting to wait, and then sleeps."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if not block:
            with self.not_empty:
                if not self.queue:
                    self.not_empty.wait(WAIT_S)
        return super().get(block, timeout)

    def nudge(self) -> None:
        """Wake the thread, so that it looks for something else that came."""
        with self.not_empty:
            self.not_empty.notify()


class _Primitives(queue.Queue[Any]):
    """What else the peer asks for or says, for the same thread: to be let in, to be released, that it aborts."""

    def __init__(self, on_request: Callable[[], None], nudge: Callable[[], None]) -> None:
        super().__init__()
        self._on_request, self._nudge = on_request, nudge

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self._on_request()
        super().put(item, block, timeout)
        self._nudge()
