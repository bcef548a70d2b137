"""One connection of a peer: bounded in what it sends, seen by the sweeper, and waited for instead of polled.

As they come, both threads of an association look for something to do a thousand times a second, and whatever is sent
goes from one to the other. Here one waits for the socket and the other one for a message, which it answers itself: on a
busy machine each nap, and each time that a thread woke the other, cost 10 to 20 ms a slice.
"""

from __future__ import annotations

import errno
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from pynetdicom.association import Association
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket

WAIT_S: Final = 0.05
"""How long either thread waits before it looks whether it is to end."""


@dataclass(eq=False, slots=True)
class Connection:
    """One TCP connection, from accept until its threads have ended.

    Attributes:
        peer: IP address.
        socket: wrapped in TLS where that is used.
        opened: monotonic time of the accept.
        worker: thread that makes the handshake and reads the A-ASSOCIATE-RQ; None before it runs.
        assoc: the association, once there is one.
        ahead: the A-ASSOCIATE-RQ, which was read before there was an association to read it.
        requested: whether an A-ASSOCIATE-RQ came.
        accepted: whether it is to be let in.
        reading_since: when the read that goes on began; None between reads.
        received: bytes so far.
        mark: (time, bytes received) when the message that goes on was first looked at; None between messages.
    """

    peer: str
    socket: socket.socket
    opened: float = field(default_factory=time.monotonic)
    worker: threading.Thread | None = None
    assoc: Association | None = None
    ahead: bytearray = field(default_factory=bytearray)
    requested: bool = False
    accepted: bool = False
    reading_since: float | None = None
    received: int = 0
    mark: tuple[float, int] | None = None

    @property
    def alive(self) -> bool:
        """Whether it still has a thread, or will get one."""
        if self.assoc is not None and self.assoc.ident is not None:
            return self.assoc.is_alive() or self.assoc.dul.is_alive()
        return self.worker is None or self.worker.is_alive()

    def shut(self) -> None:
        """End it; the thread that reads from it wakes up."""
        with suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def read(self, count: int) -> bytearray:
        """Read so many bytes; fewer where the peer leaves before."""
        data, place = bytearray(count), 0
        self.reading_since = time.monotonic()
        try:
            while place < count:
                read = self.socket.recv_into(memoryview(data)[place:])
                if not read:
                    del data[place:]
                    break
                place += read
                self.received += read
        finally:
            self.reading_since = None
        return data


class GuardedSocket(AssociationSocket):
    """What an association reads from and writes to."""

    def __init__(self, replaced: AssociationSocket, connection: Connection, max_pdu_bytes: int) -> None:
        """Take the place of the socket that pynetdicom made, before its threads start.

        Args:
            replaced: its own constructor would tell the state machine of the connection once more.
            connection: to read from.
            max_pdu_bytes: a longer PDU ends the association.
        """
        self.__dict__.update(vars(replaced))
        self._connection, self._max_pdu_bytes, self._owed = connection, max_pdu_bytes, False
        dul, messages = self.assoc.dul, _Messages()
        dul._run_loop_delay = 0.0  # `ready` waits
        self.assoc.dimse.msg_queue = messages
        dul.to_user_queue = _Primitives(self._owe_answer, messages.nudge)
        dul.to_provider_queue = _Answers(self._answered)

    def _owe_answer(self) -> None:
        """Note that the peer asks to be let in, or released: until that is answered, we owe the answer."""
        self._owed = True

    def _answered(self, primitive: Any) -> bool:
        """Send data in the thread that has them (PS3.8 9.2.3, DT-1); False for what the other thread is to send."""
        if not isinstance(primitive, P_DATA) or self.assoc.dul.state_machine.current_state != "Sta6":
            return False
        pdu = P_DATA_TF()
        pdu.from_primitive(primitive)
        self.assoc.dul._send(pdu)
        return True

    @property
    def ready(self) -> bool:
        """Whether there is something to read; waits for it a while."""
        if self._connection.ahead:
            return True
        if self.socket is None or not self._is_connected:
            time.sleep(0.001)
            return False
        if self._owed:
            answers = self.assoc.dul.to_provider_queue
            with answers.not_empty:
                if answers.queue or answers.not_empty.wait(WAIT_S):
                    return False  # it is sent first
            return self._readable(self.socket, 0.0)
        return self._readable(self.socket, WAIT_S)

    def _readable(self, connection: socket.socket, wait_s: float) -> bool:
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
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
        if ahead := self._connection.ahead[:nr_bytes]:
            del self._connection.ahead[:nr_bytes]
            return ahead
        if nr_bytes > self._max_pdu_bytes + 6:
            raise OSError(errno.EMSGSIZE, f"a PDU of {nr_bytes} bytes; expected at most {self._max_pdu_bytes}")
        return self._connection.read(nr_bytes)

    def send(self, bytestream: bytes) -> None:
        """Send all of it."""
        self._owed = False
        super().send(bytestream)


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


class _Answers(queue.Queue[Any]):
    """What the association's thread has for the other one to send."""

    def __init__(self, send: Callable[[Any], bool]) -> None:
        super().__init__()
        self._send = send

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if self.queue or not self._send(item):
            super().put(item, block, timeout)


class _Primitives(queue.Queue[Any]):
    """What else the peer asks for or says, for the same thread: to be let in, to be released, that it aborts."""

    def __init__(self, on_request: Callable[[], None], nudge: Callable[[], None]) -> None:
        super().__init__()
        self._on_request, self._nudge = on_request, nudge

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self._on_request()
        super().put(item, block, timeout)
        self._nudge()
