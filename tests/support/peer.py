"""A PACS that answers as a test says: C-STORE by a status, storage commitment at once; on a free port of loopback."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import StorageCommitmentPushModel

from app.pacs.commitment import INSTANCE
from tests.support.queued import SR_CLASSES
from tests.support.waiting import PATIENCE_S


@dataclass
class Peer:
    """What it answers and what it got.

    Attributes:
        port: where it listens.
        answer: of a C-STORE, given the event.
        stored: SOP Class and Instance UID of each C-STORE, in order.
        datasets: encoded, likewise.
        reported: what each report of storage commitment was answered with.
    """

    port: int = 0
    answer: Callable[[Event], int] = lambda event: 0x0000
    stored: list[tuple[str, str]] = field(default_factory=list)
    datasets: list[bytes] = field(default_factory=list)
    reported: list[int] = field(default_factory=list)


@contextmanager
def peer(
    classes: Sequence[str] = tuple(SR_CLASSES.values()), port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[Peer]:
    """Run one until the block ends; it takes these SOP classes."""
    told = Peer()

    def store(event: Event) -> int:
        request = event.request
        told.stored.append((str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)))
        told.datasets.append(event.encoded_dataset(include_meta=False))
        return told.answer(event)

    def commit(event: Event) -> tuple[int, None]:
        """Report on the same association, before the question is answered."""
        answer, _ = event.assoc.send_n_event_report(event.action_information, 1, StorageCommitmentPushModel, INSTANCE)
        told.reported.append(answer.Status)
        return 0x0000, None

    ae = AE(ae_title="PACS")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = PATIENCE_S
    for sop_class in (*classes, "1.2.840.10008.1.1"):
        ae.add_supported_context(sop_class)
    handlers = [(evt.EVT_C_STORE, store), (evt.EVT_N_ACTION, commit)]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers, ssl_context=tls)
    told.port = server.server_address[1]
    try:
        yield told
    finally:
        server.shutdown()
