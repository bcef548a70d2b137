"""One SR to one PACS by C-STORE, and the association that this and the questions afterwards need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from app.pacs.credentials import client_tls
from app.pacs.destination import Destination
from app.pacs.judge import Answer, Verdict, judged
from app.pacs.outgoing import NoAssociation, close_association, open_association

SYNTAXES: Final = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
SR_CLASSES: Final = (str(Comprehensive3DSRStorage), str(ComprehensiveSRStorage))
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
    try:
        with association(destination, our_ae, SR_CLASSES) as peer:
            if not accepts(peer, sop_class):
                return Answer(Verdict.FALL_BACK, None, "NOT_ACCEPTED")
            try:
                status = peer.send_c_store(dataset).get("Status")
            except RuntimeError:  # it was aborted since
                return LOST
            return LOST if status is None else judged(int(status))
    except NoAssociation as error:
        return Answer(Verdict.RETRY, None, no_association(error))


def no_association(error: NoAssociation) -> str:
    """Return the reason that the queue shows."""
    return f"NO_ASSOCIATION ({error})" if str(error) else "NO_ASSOCIATION"


def accepts(peer: Association, abstract_syntax: str) -> bool:
    """Return whether the peer accepted a presentation context of this class, with us as its user."""
    return any(str(one.abstract_syntax) == abstract_syntax and one.as_scu for one in peer.accepted_contexts)


@contextmanager
def association(
    destination: Destination, our_ae: str, classes: Sequence[str], handlers: Sequence[EventHandlerType] = ()
) -> Iterator[Association]:
    """Open an association, released at the end of the block.

    Verification is asked for too, so that an association without the wanted class can be told from none.

    Args:
        destination: the peer.
        our_ae: calling AE title.
        classes: abstract syntaxes.
        handlers: of events.

    Raises:
        NoAssociation: the peer does not answer, or does not let us in.
        StartError: `TLS_INVALID`, where a file cannot be used.
    """
    ae = AE(ae_title=destination.calling_ae or our_ae)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = destination.timeout_s
    # A context for each transfer syntax: of one with both, a peer may choose to have our bytes transcoded.
    contexts = [build_context(sop_class, syntax) for sop_class in (*classes, Verification) for syntax in SYNTAXES]
    where, called = (destination.host, destination.port), destination.ae_title or ""
    peer = open_association(ae, where, contexts, called=called, tls=client_tls(destination), handlers=handlers)
    try:
        yield peer
    finally:
        close_association(peer)
