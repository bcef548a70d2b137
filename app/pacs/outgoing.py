"""How every association that we open is set up: PDUs go at once, answers reach who waits, and none waits for ever.

Where there is none, `NoAssociation` says why.
"""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Any, Final

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext

from app.no_answer import tls_failure, why_no_answer

PDU_S: Final = 15.0
"""From the first byte of a PDU of the peer to its last, as `limits.pdu_s` for those who call us."""

PIECE_BYTES: Final = 1 << 16


class NoAssociation(Exception):
    """The peer cannot be reached or does not let us in; the message says why, and is empty where that is not known."""


class TlsFailed(NoAssociation):
    """TLS did not come about; the message says why."""


def open_association(
    ae: AE,
    where: tuple[str, int],
    contexts: list[PresentationContext],
    *,
    called: str,
    tls: ssl.SSLContext | None,
    handlers: Sequence[EventHandlerType] = (),
    roles: Sequence[Any] = (),
) -> Association:
    """Open an association; whoever asks for it releases it.

    Args:
        ae: ours, with its time-outs.
        where: host and port.
        contexts: presentation contexts to propose.
        called: AE title of the peer.
        tls: made for this association alone; None for plain TCP.
        handlers: of events.
        roles: role selection items.

    Raises:
        NoAssociation: there is none; `TlsFailed`, where TLS is why.
    """
    failures = _noted_failures(tls) if tls else []
    try:
        assoc = ae.associate(
            *where,
            contexts,
            ae_title=called,
            ext_neg=list(roles),
            tls_args=(tls, where[0]) if tls else None,
            evt_handlers=[(evt.EVT_CONN_OPEN, prepare), *handlers],
        )
    except (socket.gaierror, UnicodeError) as error:  # the latter where the name is malformed
        raise NoAssociation(why_no_answer(error)) from error
    if not assoc.is_established:
        raise TlsFailed(tls_failure(failures[0])) if failures else NoAssociation
    return assoc


def close_association(assoc: Association) -> None:
    """End an association: release it, unless its connection is gone.

    A release waits for an answer. The association's thread may take the news that there will be none from whoever waits
    (pynetdicom 3.0.4), who then waits for all of `acse_timeout`.
    """
    if not assoc.is_established:
        return
    if assoc.acse.is_aborted() or assoc.dul._kill_thread:
        assoc.kill()
    else:
        assoc.release()


def _noted_failures(context: ssl.SSLContext) -> list[OSError]:
    """Return a list to which each socket of the context adds what TLS fails with; pynetdicom only logs it."""
    failures: list[OSError] = []
    plain: Any = context.sslsocket_class

    class Noting(plain):  # type: ignore[misc]
        def do_handshake(self, *about: Any) -> None:
            try:
                super().do_handshake(*about)
            except OSError as error:
                failures.append(error)
                raise

        def read(self, *about: Any) -> Any:
            try:
                return super().read(*about)
            except ssl.SSLError as error:  # with TLS 1.3, our handshake ends before our certificate is looked at
                failures.append(error)
                raise

    context.sslsocket_class = Noting
    return failures


def prepare(event: Event) -> None:
    """Set up an association that we open; the handler of EVT_CONN_OPEN."""
    _send_at_once(event.assoc)
    _keep_answers(event.assoc)
    _close_whole(event.assoc)
    _bound_waits(event.assoc)


def _send_at_once(assoc: Association) -> None:
    """Set TCP_NODELAY: without it, a peer that waits for the next PDU answers 40 ms later."""
    transport = assoc.dul.socket
    if transport and transport.socket:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _keep_answers(assoc: Association) -> None:
    """Keep the association's thread from taking an answer that another thread waits for.

    The association's thread looks for requests of the peer. Whoever sends a request first clears a checkpoint, which
    halts that thread; but it reports that it has halted just before it reads the checkpoint. If the checkpoint was
    still set, the thread goes on, takes the answer and drops it as unexpected (pynetdicom 3.0.4, its issue 875). Two
    soaks on a busy machine lost one answer in 780 and one in 2,300, and each costs the whole time-out.
    """
    take = assoc.dimse.get_msg

    def get_msg(block: bool = False) -> Any:
        if not block and not assoc._reactor_checkpoint.is_set():
            return None, None
        return take(block)

    assoc.dimse.get_msg = get_msg  # type: ignore[method-assign]


def _close_whole(assoc: Association) -> None:
    """Close the socket also where the peer was faster: pynetdicom fails to shut it down then, and leaves it open."""
    transport = assoc.dul.socket
    if transport is None or transport.socket is None:
        return
    shut, connection = transport._shutdown_socket, transport.socket

    def shutdown_socket() -> None:
        shut()
        connection.close()

    transport._shutdown_socket = shutdown_socket  # type: ignore[method-assign]


def _bound_waits(assoc: Association) -> None:
    """End a read or write that the peer does not let end.

    pynetdicom sets no time-out. A peer that falls silent within a PDU, or no longer reads, would hold the thread of the
    reactor for ever, and with it whoever asks: a question that times out aborts, and waits for that thread.
    """
    transport = assoc.dul.socket
    if transport is None or transport.socket is None:
        return
    connection, end = transport.socket, None
    connection.settimeout(assoc.network_timeout)

    def recv(nr_bytes: int) -> bytearray:
        """Read the first six bytes of a PDU; in the next call the rest of it."""
        nonlocal end
        head, taken, wait_s = end is None, bytearray(), connection.gettimeout()
        try:
            while len(taken) < nr_bytes:
                if end is not None:
                    connection.settimeout(_left_s(end))
                piece = connection.recv(min(nr_bytes - len(taken), PIECE_BYTES))
                if not piece:
                    break
                end = end or time.monotonic() + PDU_S
                taken += piece
            return taken
        finally:
            connection.settimeout(wait_s)
            end = end if head else None

    transport.recv = recv  # type: ignore[method-assign]


def _left_s(end: float) -> float:
    left_s = end - time.monotonic()
    if left_s <= 0:
        raise TimeoutError(errno.ETIMEDOUT, f"a PDU was not complete in {PDU_S:g} s")
    return left_s
