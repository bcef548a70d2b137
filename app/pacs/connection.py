"""One connection of a peer: seen by the sweeper, and read in large pieces that are looked at before they are taken."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from pynetdicom.association import Association


@dataclass(eq=False, slots=True)
class Connection:
    """One TCP connection, from accept until its threads have ended.

    Attributes:
        peer: IP address.
        socket: wrapped in TLS where that is used.
        capacity: the most bytes that can be looked at at once.
        clock: monotonic time in seconds.
        opened: time of the accept.
        worker: thread that makes the handshake and reads the A-ASSOCIATE-RQ; None before it runs.
        assoc: the association, once there is one.
        requested: whether an A-ASSOCIATE-RQ came.
        accepted: whether it is to be let in.
        storing: whether a data set is going straight to the spool.
        reading_since: when the read that goes on began; None between reads.
        received: bytes so far.
        mark: (time, bytes received) when the message that goes on was first looked at; None between messages.
    """

    peer: str
    socket: socket.socket
    capacity: int
    clock: Callable[[], float] = time.monotonic
    opened: float = field(init=False)
    worker: threading.Thread | None = None
    assoc: Association | None = None
    requested: bool = False
    accepted: bool = False
    storing: bool = False
    reading_since: float | None = None
    received: int = 0
    mark: tuple[float, int] | None = None
    _bytes: memoryview = field(init=False, repr=False)  # what was read and not taken is from _start to _end
    _start: int = 0
    _end: int = 0

    def __post_init__(self) -> None:
        """Make the buffer; the system gives it memory when it is written to."""
        self._bytes = memoryview(bytearray(self.capacity))
        self.opened = self.clock()

    @property
    def alive(self) -> bool:
        """Whether it still has a thread, or will get one."""
        if self.assoc is not None and self.assoc.ident is not None:
            return self.assoc.is_alive() or self.assoc.dul.is_alive()
        return self.worker is None or self.worker.is_alive()

    @property
    def in_message(self) -> bool:
        """Whether a part of a DIMSE message has arrived and the rest has not."""
        return self.storing or (self.assoc is not None and self.assoc.dimse.message is not None)

    @property
    def waiting(self) -> bool:
        """Whether there are bytes that were read and not taken."""
        return self._end > self._start

    def shut(self) -> None:
        """End it; the thread that reads from it wakes up."""
        with suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def ahead(self, count: int) -> memoryview:
        """Return the next so many bytes, which stay to be taken; fewer where the peer leaves before.

        They are overwritten by the next call.

        Raises:
            OSError: the connection broke.
        """
        if self._end - self._start < count:
            self._fill(count)
        return self._bytes[self._start : min(self._start + count, self._end)]

    def take(self, count: int) -> bytearray:
        """Take so many bytes; fewer where the peer leaves before.

        Raises:
            OSError: the connection broke.
        """
        taken = bytearray(self.ahead(count))
        self.drop(len(taken))
        return taken

    def drop(self, count: int) -> None:
        """Remove bytes that were looked at."""
        self._start += count

    def _fill(self, count: int) -> None:
        kept = self._end - self._start
        self._bytes[:kept] = self._bytes[self._start : self._end]
        self._start, self._end = 0, kept
        self.reading_since = self.clock()
        try:
            while self._end - self._start < count:
                read = self.socket.recv_into(self._bytes[self._end :])
                if not read:
                    return
                self._end += read
                self.received += read
        finally:
            self.reading_since = None
