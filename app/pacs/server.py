"""pynetdicom's association server, hardened: silent, dripping and dead peers must not use up what a good one needs.

As it comes, it waits 30 s for the first PDU and for ever for the rest of one, holds two threads for each silent peer,
makes the TLS handshake in the loop that accepts, and reads a PDU of any length into memory. Here a sweeper shuts the
socket of a connection that is late, whatever it is late with: a shutdown, unlike a close, wakes the thread that reads.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from app.pacs.connection import Connection
from app.pacs.guarded_socket import GuardedSocket
from app.pacs.receive import Receiver
from app.pacs.request import (
    CALLED_TITLE,
    CALLING_TITLE,
    LOCAL_LIMIT,
    MAX_REQUEST_BYTES,
    PDU_HEAD_BYTES,
    Rejection,
    Request,
    read_request,
)
from app.pacs.service import Service
from app.pacs.settings import SLOW_BYTES_PER_S, Limits

logger = logging.getLogger(__name__)

POLL_S: Final = 0.2
SWEEP_S: Final = 0.25
HIGHEST_HANDLE: Final = 1000
"""`select()` fails from 1024 on, and pynetdicom drops the connection then without a word."""


class HardenedServer(ThreadedAssociationServer):
    """An association server with limits; `start` it, and `stop` it."""

    request_queue_size = 256
    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        contexts: list[PresentationContext],
        *,
        limits: Limits,
        receiver: Receiver | None = None,
        tls: ssl.SSLContext | None = None,
        handlers: Sequence[tuple[evt.EventType, Callable[..., Any]]] = (),
        on_sweep: Callable[[], None] = lambda: None,
        on_stranger: Callable[[str, str, str], None] = lambda calling, called, address: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Bind the address; nobody is served before `start`.

        Args:
            ae: with the titles that it requires; its limits and time-outs are set here.
            address: host and port; port 0 for a free one.
            contexts: what is accepted.
            limits: of peers.
            receiver: answers C-STORE; None where none is accepted.
            tls: None for plain TCP.
            handlers: of pynetdicom's events.
            on_sweep: called a few times a second, by the sweeper's thread.
            on_stranger: called for one who is rejected for a title: calling title, called title, address.
            clock: by which the sweeper tells who is late.

        Raises:
            OSError: the address cannot be bound.
        """
        self.limits, self._receiver, self._connections = limits, receiver, list[Connection]()
        self._on_sweep, self._on_stranger, self._clock = on_sweep, on_stranger, clock
        self._capacity = PDU_HEAD_BYTES + max(limits.max_pdu_bytes, MAX_REQUEST_BYTES)
        self._lock, self._admitting, self._sweeper = threading.Lock(), threading.Lock(), Service("sweeper", SWEEP_S)
        ae.maximum_associations = limits.connections + 1  # its own count takes in the silent ones: `_admit` has ours
        ae.maximum_pdu_size = limits.max_pdu_bytes
        ae.require_called_aet = True
        ae.acse_timeout, ae.network_timeout = limits.first_pdu_s, limits.idle_s
        bound: list[evt.EventHandlerType] = [(evt.EVT_CONN_CLOSE, self._closed)]
        if receiver:
            bound.append((evt.EVT_C_STORE, receiver.store))
        bound.extend(handlers)
        super().__init__(ae, address, ae.ae_title, contexts, tls, bound, request_handler=_Handler)
        ae._servers.append(self)  # shutdown() takes it out again

    @property
    def port(self) -> int:
        """The one that was bound."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Serve, in threads of its own."""
        threading.Thread(target=self.serve_forever, args=(POLL_S,), name="listener-accept", daemon=True).start()
        threading.Thread(target=self._sweeper.run, args=(self._sweep,), name="listener-sweep", daemon=True).start()

    def stop(self, grace_s: float = 10.0) -> None:
        """Accept nobody more, let associations end what they are at, then abort them."""
        self.shutdown()
        end = time.monotonic() + grace_s
        while any(one.alive and one.accepted for one in self._alive()) and time.monotonic() < end:
            time.sleep(0.05)
        self._sweeper.stop()
        for connection in self._alive():
            connection.shut()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; its TLS handshake comes later, in a thread of its own."""
        listening: Any = self.socket
        client, address = listening.accept()
        client.settimeout(self.limits.first_pdu_s)
        if self.ssl_context:
            try:
                client = self.ssl_context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
            except (OSError, ValueError) as error:
                client.close()
                raise OSError(errno.ECONNABORTED, "the peer left before the TLS handshake") from error
        return client, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether there is room for another connection of this peer."""
        alive, peer = self._alive(), client_address[0]
        of_peer = sum(one.peer == peer for one in alive)
        room = len(alive) < self.limits.connections and of_peer < self.limits.connections_per_peer
        if not room or request.fileno() >= HIGHEST_HANDLE:
            logger.warning("%s: closed, %d connections are open, %d of this peer", peer, len(alive), of_peer)
            return False
        with self._lock:
            self._connections.append(Connection(peer, request, self._capacity, self._clock))
        return True

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Make the TLS handshake, and start the association once the peer has begun to ask for one."""
        connection = self._of_socket(request)
        connection.worker = threading.current_thread()
        try:
            if self.ssl_context:
                request.do_handshake()
            requested = read_request(connection)
            if requested is None:
                self.shutdown_request(request)
                return
            connection.requested = True
            if refusal := self._refusal(connection, requested):
                if refusal is not LOCAL_LIMIT:
                    self._on_stranger(requested.calling, requested.called, connection.peer)
                request.sendall(refusal.pdu)
                self.shutdown_request(request)
                return
            request.settimeout(self.limits.pdu_s)
            self.finish_request(request, client_address)
        except (OSError, ValueError) as error:  # ssl's errors are OSErrors
            logger.warning("%s: no association (%s)", connection.peer, type(error).__name__)
            self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what socketserver would print."""
        logger.exception("%s: the connection failed", client_address[0])

    def attach(self, assoc: Association, request: socket.socket) -> None:
        """Guard what an association reads."""
        connection = self._of_socket(request)
        connection.assoc = assoc
        if assoc.dul.socket is not None:
            about = connection, self.limits.max_pdu_bytes, self._receiver
            assoc.dul.socket = GuardedSocket(assoc.dul.socket, *about)

    def _refusal(self, connection: Connection, requested: Request) -> Rejection | None:
        """Return why a peer is not let in; None where it is let in, and counted from now on."""
        if requested.called != self.ae_title.strip():
            return CALLED_TITLE
        callers = [title.strip() for title in self.ae.require_calling_aet]
        if callers and requested.calling not in callers:
            return CALLING_TITLE
        with self._admitting:
            accepted = [one for one in self._alive() if one.accepted]
            of_peer = sum(one.peer == connection.peer for one in accepted)
            if len(accepted) >= self.limits.associations or of_peer >= self.limits.associations_per_peer:
                about = connection.peer, len(accepted), of_peer
                logger.warning("%s: rejected, %d associations are open, %d of this peer", *about)
                return LOCAL_LIMIT
            connection.accepted = True
            return None

    def _closed(self, event: evt.Event) -> None:
        """Free the thread that waits for an A-ASSOCIATE-RQ of a peer that left."""
        waited_for: Any = event.assoc.dul.to_user_queue
        if event.assoc.requestor.primitive is None:
            waited_for.put(None)

    def _sweep(self) -> None:
        now = self._clock()
        for connection in self._alive():
            if late := self._late(connection, now):
                logger.warning("%s: dropped, %s", connection.peer, late)
                connection.shut()
        self._on_sweep()

    def _late(self, connection: Connection, now: float) -> str | None:
        """Return what a connection is late with; None if nothing."""
        limits = self.limits
        if not connection.requested:
            return "no A-ASSOCIATE-RQ in time" if now - connection.opened > limits.first_pdu_s else None
        since = connection.reading_since
        if since is not None and now - since > limits.pdu_s:
            return "a PDU was not complete in time"
        if not connection.in_message:
            connection.mark = None
        elif connection.mark is None:
            connection.mark = now, connection.received
        elif now - connection.mark[0] > limits.slow_s:
            rate = (connection.received - connection.mark[1]) / (now - connection.mark[0])
            connection.mark = now, connection.received
            return "a message came too slowly" if rate < SLOW_BYTES_PER_S else None
        return None

    def _alive(self) -> list[Connection]:
        with self._lock:
            self._connections = [one for one in self._connections if one.alive]
            return list(self._connections)

    def _of_socket(self, request: socket.socket) -> Connection:
        with self._lock:
            return next(one for one in self._connections if one.socket is request)


class _Handler(RequestHandler):
    """One connection's handler."""

    server: HardenedServer

    def _create_association(self) -> Association:
        assoc = super()._create_association()
        self.server.attach(assoc, self.request)
        return assoc
