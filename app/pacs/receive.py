"""C-STORE and C-ECHO: what is accepted, and what is answered (PS3.4 B.2.3, PS3.7 9.1.1).

Success is answered when file and row are on the disk, and never before.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom import AE, _config, dimse_messages, evt
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from app.pacs import trail
from app.pacs.arrivals import Identity, Origin
from app.pacs.credentials import usable
from app.pacs.intake import NOT_UNDERSTOOD, STORED_CLASSES, SUCCESS, SYNTAXES, WRONG_CLASS, Check, Intake, Refused
from app.pacs.settings import ListenerSettings, Tls
from app.pacs.spool import Spool
from app.pacs.store_command import StoreAnswer, StoreRequest

logger = logging.getLogger(__name__)

UNABLE_TO_PROCESS: Final = 0xC211
"""What pynetdicom, too, answers where the handler fails."""


def accepted_contexts() -> list[PresentationContext]:
    """Return what is accepted; others are refused with result 3 (abstract syntax not supported, PS3.8 9.3.3.2).

    Of storage commitment the reports: the PACS is the SCP there, and opens the association.
    """
    commitment = build_context(StorageCommitmentPushModel)
    commitment.scu_role = commitment.scp_role = True
    stored = [build_context(one, list(SYNTAXES)) for one in STORED_CLASSES]
    return [build_context(Verification), *stored, commitment]


def application_entity(settings: ListenerSettings) -> AE:
    """Return our AE, with the calling AE titles that it lets in."""
    ae = AE(ae_title=settings.ae_title)
    ae.require_calling_aet = list(settings.calling_ae_titles)
    return ae


def tls_context(tls: Tls) -> ssl.SSLContext | None:
    """Make the server's TLS context; None for plain TCP.

    Raises:
        StartError: `TLS_INVALID`, where a file cannot be read.
    """
    if tls.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with usable("listener.tls", tls):
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.ca:
            context.load_verify_locations(tls.ca)
            context.verify_mode = ssl.CERT_REQUIRED
    return context


def receive_into(spool: Spool) -> None:
    """Set up pynetdicom, for this process, to write each C-STORE's data set into the spool while it arrives."""
    _config.STORE_RECV_CHUNKED_DATASET = True
    _config.LOG_HANDLER_LEVEL = "none"
    dimse_messages.NamedTemporaryFile = lambda **_: spool.open_incoming()  # type: ignore[attr-defined, assignment]


@dataclass(frozen=True, slots=True)
class Receiver:
    """What is done with an object that a C-STORE brought.

    Attributes:
        intake: where it goes.
    """

    intake: Intake

    def store(self, event: evt.Event) -> Dataset | int:
        """Answer a C-STORE request that pynetdicom has read: the handler of EVT_C_STORE."""
        remote = event.assoc.remote
        primitive: Any = event.request
        originator = str(getattr(primitive, "MoveOriginatorApplicationEntityTitle", None) or "").strip()
        uids = str(primitive.AffectedSOPClassUID).strip(), str(primitive.AffectedSOPInstanceUID)
        request = StoreRequest(int(primitive.MessageID), *uids, originator)
        fetched = event.assoc.is_requestor or originator == event.assoc.ae.ae_title
        origin = Origin(str(remote["ae_title"]).strip(), str(remote["address"]), fetched)
        answer = self.receive(event.dataset_path, request, origin, event.context.transfer_syntax)
        if not answer.comment:
            return answer.status
        response = Dataset()
        response.Status, response.ErrorComment = answer.status, answer.comment
        return response

    def receive(self, path: Path, request: StoreRequest, origin: Origin, syntax: str) -> StoreAnswer:
        """Store a data set, and return what is to be answered (PS3.7 9.1.1).

        Args:
            path: in the spool, to which all of it was written.
            request: that it belongs to.
            origin: who sent it.
            syntax: its transfer syntax.
        """
        incoming = self.intake.spool.take(path)
        if incoming is None:
            return StoreAnswer(NOT_UNDERSTOOD, "the object did not arrive whole")
        try:
            kept = self.intake.take_in(incoming, origin, syntax, _as_requested(request))
        except Refused as refused:
            logger.warning("%s at %s: refused, %s", origin.calling_ae, origin.address, refused.why)
            trail.refused(origin.calling_ae, origin.address, refused.why)
            return StoreAnswer(refused.status, refused.why)
        except Exception:
            logger.exception("%s at %s: an object was not stored", origin.calling_ae, origin.address)
            return StoreAnswer(UNABLE_TO_PROCESS, "an error of the listener")
        finally:
            incoming.discard()
        if kept:
            logger.info("%s at %s: kept %s", origin.calling_ae, origin.address, kept.path)
        return StoreAnswer(SUCCESS)


def _as_requested(request: StoreRequest) -> Check:
    def check(who: Identity) -> None:
        if who.sop_class_uid != request.sop_class_uid:
            raise Refused(WRONG_CLASS, "the data set is of another SOP class than the request")
        if who.sop_uid != request.sop_uid:
            raise Refused(NOT_UNDERSTOOD, "the data set has another SOP Instance UID than the request")

    return check
