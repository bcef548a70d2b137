"""One SR to one PACS by C-STORE, and the association that this and the questions afterwards need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from app.pacs.credentials import client_tls
from app.pacs.destination import Destination
from app.pacs.judge import Answer, Verdict, judged
from app.pacs.outgoing import prepare

SYNTAXES: Final = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
SR_CLASSES: Final = (str(Comprehensive3DSRStorage), str(ComprehensiveSRStorage))
UNREACHABLE: Final = Answer(Verdict.RETRY, None, "NO_ASSOCIATION")
LOST: Final = Answer(Verdict.RETRY, None, "ASSOCIATION_LOST")


def store(destination: Destination, path: Path, our_ae: str) -> Answer:
    """Send a file; delivered only where the peer says so.

    Args:
        destination: of kind `store`.
        path: of the SR.
        our_ae: calling AE title.
    """
    dataset = dcmread(path)
    sop_class = str(dataset.SOPClassUID)
    with association(destination, our_ae, SR_CLASSES) as peer:
        if peer is None:
            return UNREACHABLE
        if not accepts(peer, sop_class):
            return Answer(Verdict.FALL_BACK, None, "NOT_ACCEPTED")
        try:
            status = peer.send_c_store(dataset).get("Status")
        except RuntimeError:  # it was aborted since
            return LOST
        return LOST if status is None else judged(int(status))


def accepts(peer: Association, abstract_syntax: str) -> bool:
    """Return whether the peer accepted a presentation context of this class, with us as its user."""
    return any(str(one.abstract_syntax) == abstract_syntax and one.as_scu for one in peer.accepted_contexts)


@contextmanager
def association(
    destination: Destination, our_ae: str, classes: Sequence[str], handlers: Sequence[EventHandlerType] = ()
) -> Iterator[Association | None]:
    """Open an association, released at the end of the block; None where the peer does not answer or lets us in.

    Verification is asked for too, so that an association without the wanted class can be told from none.

    Args:
        destination: the peer.
        our_ae: calling AE title.
        classes: abstract syntaxes.
        handlers: of events.
    """
    ae = AE(ae_title=destination.calling_ae or our_ae)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = destination.timeout_s
    # A context for each transfer syntax: of one with both, a peer may choose to have our bytes transcoded.
    contexts = [build_context(sop_class, syntax) for sop_class in (*classes, Verification) for syntax in SYNTAXES]
    where = destination.host, destination.port
    tls = client_tls(destination)
    peer = ae.associate(
        *where,
        contexts,
        ae_title=destination.ae_title or "",
        tls_args=(tls, destination.host) if tls else None,
        evt_handlers=[(evt.EVT_CONN_OPEN, prepare), *handlers],
    )
    if not peer.is_established:
        yield None
        return
    try:
        yield peer
    finally:
        if peer.is_established:
            peer.release()
