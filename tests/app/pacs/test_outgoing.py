"""An association that we open receives every answer of its peer, even when its own threads run late."""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import replace
from typing import Any

import pytest
from pynetdicom import evt

from app.pacs.destination import Destination
from app.pacs.outgoing import NoAssociation
from app.pacs.store import SR_CLASSES, association
from tests.support.peer import peer
from tests.support.waiting import PATIENCE_S, until

TO = Destination("PACS", ae_title="PACS", timeout_s=PATIENCE_S)


class LateCheckpoint(threading.Event):
    """A checkpoint that the association's thread passes once, and then runs on only when the answer has come.

    This is what happens when a busy machine interrupts the thread there.
    """

    def __init__(self, assoc: Any) -> None:
        super().__init__()
        self.set()
        self._assoc, self.passed, self.back = assoc, threading.Event(), threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        if self.passed.is_set():
            self.back.set()
            return super().wait(timeout)
        self.passed.set()
        until(lambda: self._assoc.dimse.msg_queue.queue)
        return True


def test_the_socket_is_closed_where_the_peer_was_faster():
    """Its reset makes the shutdown fail, after which pynetdicom does not close."""
    opened = list[socket.socket]()
    note = (evt.EVT_CONN_OPEN, lambda event: opened.append(event.assoc.dul.socket.socket))

    def reset(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1)  # of the A-ASSOCIATE-RQ
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=reset, args=(server,))
        thread.start()
        to = replace(TO, port=server.getsockname()[1])
        with pytest.raises(NoAssociation), association(to, "CTVAE", SR_CLASSES, [note]):
            pass
        thread.join(PATIENCE_S)
    until(lambda: opened[0].fileno() == -1)


def test_an_answer_is_not_taken_by_the_thread_that_looks_for_requests():
    with peer() as pacs, association(replace(TO, port=pacs.port), "CTVAE", SR_CLASSES) as to:
        checkpoint = to._reactor_checkpoint = LateCheckpoint(to)
        send = to.dimse.send_msg

        def send_msg(*about: Any) -> None:
            send(*about)
            assert checkpoint.back.wait(PATIENCE_S)  # the association's thread has run on

        to.dimse.send_msg = send_msg
        assert checkpoint.passed.wait(PATIENCE_S)
        assert to.send_c_echo().get("Status") == 0
