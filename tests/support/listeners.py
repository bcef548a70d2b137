"""A listener in this process, and peers that are good or hostile, for tests."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, _config, dimse_messages, evt
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import CTImageStorage, Verification
from sqlalchemy import Table, select

from app.pacs.database.engine import Database, open_database
from app.pacs.intake import Intake
from app.pacs.outgoing import prepare
from app.pacs.receive import Receiver, accepted_contexts, application_entity, receive_into, tls_context
from app.pacs.server import HardenedServer
from app.pacs.settings import Limits, ListenerSettings
from app.pacs.spool import Spool
from tests.support.checkout import skip_or_fail
from tests.support.clocks import Clock
from tests.support.waiting import PATIENCE_S, until

STORESCU = Path("/usr/bin/storescu")
ABORT = b"\7\0\0\0\0\4"
"""How an A-ABORT begins."""
LATE_S = 10 * PATIENCE_S  # longer than a good peer waits: what it is served, it is served before others are dropped
PATIENT = Limits(first_pdu_s=LATE_S, pdu_s=LATE_S, idle_s=LATE_S, slow_s=LATE_S)
"""Limits that no peer of a test exceeds, however slow the machine; a test of them advances the listener's clock."""

PREPARED = [(evt.EVT_CONN_OPEN, prepare)]
"""Without it, pynetdicom now and then drops an answer that a peer of a test waits for, or leaves its socket open."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A server that stores, without completer and worker.

    Attributes:
        clock: by which it tells who is late; it stands still until a test advances it.
    """

    server: HardenedServer
    spool: Spool
    database: Database
    clock: Clock

    @property
    def port(self) -> int:
        return self.server.port

    def rows(self, table: Table) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(select(table).order_by(table.c.id)).all())

    def files(self) -> list[str]:
        return sorted(kept.path for kept in self.spool.files())

    def half_arrived(self) -> list[Path]:
        return list((self.spool.root / "incoming").iterdir())


@contextmanager
def listener(
    folder: Path, settings: ListenerSettings | None = None, port: int = 0, reserve_bytes: int = 0
) -> Iterator[Listener]:
    settings = settings or ListenerSettings(limits=PATIENT)
    spool = Spool(folder / "spool", reserve_bytes, 1 << 30)
    database = open_database(f"sqlite:///{folder}/queue.db")
    clock = Clock()
    before = _config.STORE_RECV_CHUNKED_DATASET, _config.LOG_HANDLER_LEVEL, dimse_messages.NamedTemporaryFile
    receive_into(spool)
    server = HardenedServer(
        application_entity(settings),
        (settings.address, port),
        accepted_contexts(),
        limits=settings.limits,
        tls=tls_context(settings.tls),
        receiver=Receiver(Intake(spool, database)),
        on_sweep=spool.sweep,
        clock=clock,
    )
    server.start()
    try:
        yield Listener(server, spool, database, clock)
    finally:
        server.stop()
        until(lambda: not server.active_associations)
        database.close()
        _config.STORE_RECV_CHUNKED_DATASET, _config.LOG_HANDLER_LEVEL, dimse_messages.NamedTemporaryFile = before


def send(port: int, *files: Path | str, called: str = "CTVAE") -> subprocess.CompletedProcess[str]:
    """Send files, or with options, by DCMTK's storescu."""
    if not STORESCU.exists():
        skip_or_fail("no storescu of DCMTK; run .ci/programs")
    command = [STORESCU, "-v", "-aet", "SENDER", "-aec", called, "127.0.0.1", str(port), *files]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def echo(port: int, source: str = "127.0.0.2", tls: Any = None) -> None:
    """Send a C-ECHO from an address; fails where it is not answered."""
    ae = AE("GOOD")
    ae.acse_timeout = ae.dimse_timeout = ae.connection_timeout = ae.network_timeout = PATIENCE_S
    where = {"bind_address": (source, 0), "tls_args": tls and (tls, "listener"), "evt_handlers": PREPARED}
    assoc = ae.associate("127.0.0.1", port, [build_context(Verification)], "CTVAE", **where)
    assert assoc.is_established
    assert assoc.send_c_echo().Status == 0
    assoc.release()


def associate(
    port: int,
    *contexts: PresentationContext,
    called: str = "CTVAE",
    calling: str = "PEER",
    source: str = "127.0.0.1",
    tls: Any = None,
) -> Any:
    """An association, for CT unless told otherwise; established or not."""
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = ae.connection_timeout = ae.network_timeout = PATIENCE_S
    wanted = list(contexts) or [build_context(CTImageStorage)]
    where = {"bind_address": (source, 0), "tls_args": tls and (tls, "listener"), "evt_handlers": PREPARED}
    return ae.associate("127.0.0.1", port, wanted, called, **where)


def stored(port: int, *paths: Path, syntax: str = ExplicitVRLittleEndian) -> list[int]:
    """The statuses of C-STORE in any transfer syntax, by pynetdicom."""
    assoc = associate(port, build_context(CTImageStorage, syntax), calling="SENDER")
    assert assoc.is_established
    statuses = [assoc.send_c_store(dcmread(path)).Status for path in paths]
    assoc.release()
    return statuses


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S, source_address=(source, 0))


def accepted(port: int, syntax: str = ExplicitVRLittleEndian) -> socket.socket:
    """A peer whose association for CT was accepted."""
    peer = connect(port)
    peer.sendall(associate_rq(syntax))
    assert peer.recv(4096)[:1] == b"\2"
    return peer


def was_ended(peer: socket.socket) -> bool:
    """Whether the listener aborts an association (PS3.8 9.3.8), after which its peer is to close it, or closes it."""
    said = b""
    try:
        while more := peer.recv(4096):
            said += more
            if ABORT in said:
                return True
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def was_closed(peer: socket.socket, wait_s: float = PATIENCE_S) -> bool:
    """Whether the listener has closed a connection, or does so soon."""
    peer.settimeout(wait_s)
    try:
        while peer.recv(4096):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


def drop_late(here: Listener, peers: Sequence[socket.socket]) -> None:
    """Let time pass until the listener has dropped peers that stay."""

    def dropped() -> bool:
        here.clock.now += LATE_S + 1
        return all(was_closed(peer, 0.01) for peer in peers)

    until(dropped)


def rejection(
    port: int, *, called: str = "CTVAE", calling: str = "PEER", source: str = "127.0.0.1"
) -> tuple[int, int, int]:
    """Result, source and reason by which the listener rejects an association (PS3.8 9.3.4).

    pynetdicom's requestor does not always know them: where its thread has not yet looked whether it is connected when
    the rejection has come and the connection is closed, it takes that for an abort.
    """
    with connect(port, source) as peer:
        peer.sendall(associate_rq(called=called, calling=calling))
        answer = b""
        while more := peer.recv(4096):
            answer += more
    assert answer[:6] == b"\3\0\0\0\0\4", answer
    return answer[7], answer[8], answer[9]


def associate_rq(
    syntax: str = ExplicitVRLittleEndian,
    sop_class: str = CTImageStorage,
    called: str = "CTVAE",
    calling: str = "PEER",
) -> bytes:
    """An A-ASSOCIATE-RQ for CT, as bytes (PS3.8 9.3.2)."""

    def item(kind: int, content: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(content)) + content

    syntaxes = item(0x30, sop_class.encode()) + item(0x40, syntax.encode())
    user = item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3"))
    items = item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, b"\1\0\0\0" + syntaxes) + user
    body = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode()) + items
    return pdu(1, body)


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBI", kind, 0, len(body)) + body


def store_rq(uid: str, data_set: bytes, *, last: bool = True) -> bytes:
    """A C-STORE request and its data set, or the first part of it, for context 1."""
    pieces = [data_set[start : start + 100_000] for start in range(0, len(data_set), 100_000)]
    fragments = [p_data(piece) for piece in pieces[:-1]]
    return b"".join([store_command(uid), *fragments, p_data(pieces[-1], 2 if last else 0)])


def p_data(piece: bytes, header: int = 0) -> bytes:
    """A P-DATA-TF of one fragment for context 1 (PS3.8 9.3.5); header 2 is the last one of a data set."""
    return pdu(4, struct.pack(">IBB", len(piece) + 2, 1, header) + piece)


def store_command(uid: str, sop_class: str = CTImageStorage) -> bytes:
    """The command of a C-STORE request (PS3.7 9.3.1), for context 1."""
    elements = [
        (0x0002, sop_class.encode() + b"\0" * (len(sop_class) % 2)),
        (0x0100, b"\1\0"),
        (0x0110, b"\1\0"),
        (0x0700, b"\0\0"),
        (0x0800, b"\0\0"),
        (0x1000, uid.encode() + b"\0" * (len(uid) % 2)),
    ]
    command = b"".join(struct.pack("<HHI", 0, element, len(value)) + value for element, value in elements)
    return p_data(struct.pack("<HHII", 0, 0, 4, len(command)) + command, 3)


def data_set_of(path: Path) -> bytes:
    """A file without its meta information."""
    whole = path.read_bytes()
    return whole[144 + int.from_bytes(whole[140:144], "little") :]


def status_in(answer: bytes) -> int:
    """The status in a C-STORE response: element (0000,0900)."""
    return int(struct.unpack("<H", answer.split(b"\0\0\0\x09\2\0\0\0")[1][:2])[0])


@dataclass(frozen=True, slots=True)
class Usage:
    """Threads and handles of this process."""

    threads: int
    handles: int

    def within(self, other: Usage) -> bool:
        """Whether there are no more of either."""
        return self.threads <= other.threads and self.handles <= other.handles


def usage() -> Usage:
    """What this process has now."""
    return Usage(threading.active_count(), len(list(Path("/proc/self/fd").iterdir())))
