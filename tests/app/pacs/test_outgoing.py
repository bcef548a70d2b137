"""An association that we open receives every answer of its peer, and ends where the peer does nothing more."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import evt

from app.pacs import outgoing
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


def test_a_peer_that_sends_a_pdu_byte_by_byte_is_not_waited_for_until_its_end(monkeypatch):
    monkeypatch.setattr(outgoing, "PDU_S", 0.5)
    left = threading.Event()

    def drip(client: socket.socket) -> None:
        end = time.monotonic() + PATIENCE_S / 4
        try:
            client.sendall(struct.pack(">BBL", 4, 0, 1 << 20))
            while time.monotonic() < end and not left.wait(0.01):
                client.sendall(b"\0")
        except OSError:
            left.set()

    with peer() as pacs, relayed(pacs.port, drip) as port:
        slow = replace(TO, port=port)
        with association(slow, "CTVAE", SR_CLASSES) as to:
            assert to.send_c_echo() == Dataset()
    assert left.is_set()


def test_a_peer_that_reads_no_more_is_not_written_to_for_ever():
    large, ended, in_time = Dataset(), threading.Event(), []
    large.SOPClassUID, large.SOPInstanceUID = SR_CLASSES[0], "1.2.3"
    large.add_new(0x00420011, "OB", bytes(1 << 25))
    large.file_meta = FileMetaDataset()
    large.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian

    def read_no_more(client: socket.socket) -> None:
        in_time.append(ended.wait(PATIENCE_S / 4))

    with peer() as pacs, relayed(pacs.port, read_no_more) as port:
        with association(replace(TO, port=port), "CTVAE", SR_CLASSES) as to:
            connection = to.dul.socket.socket
            assert connection.gettimeout() == TO.timeout_s
            connection.settimeout(0.5)
            assert to.send_c_store(large) == Dataset()
        ended.set()
    assert in_time == [True]


@contextmanager
def relayed(port: int, then: Callable[[socket.socket], None]) -> Iterator[int]:
    """Relay one association to a PACS at a port until it is accepted; then do something else with our side."""

    def relay() -> None:
        client, _ = server.accept()
        with client, socket.create_connection(("127.0.0.1", port)) as pacs:
            for one, other in ((client, pacs), (pacs, client)):
                head = one.recv(6, socket.MSG_WAITALL)
                other.sendall(head + one.recv(struct.unpack(">xxL", head)[0], socket.MSG_WAITALL))
            then(client)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=relay)
        thread.start()
        yield server.getsockname()[1]
        thread.join(PATIENCE_S)
