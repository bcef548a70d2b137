"""C-STORE and C-ECHO: what is accepted, and what is answered (PS3.4 B.2.3, PS3.7 9.1.1).

Success is answered when file and row are on the disk, and never before.
"""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)
from pynetdicom import AE, _config, dimse_messages, evt
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]
from sqlalchemy.exc import SQLAlchemyError

from app.pacs import trail
from app.pacs.arrivals import Identity, Origin, identify, is_known, record
from app.pacs.database.engine import Database
from app.pacs.settings import ListenerSettings, Tls
from app.pacs.spool import Incoming, Spool
from operators.dicom.content_digest import content_digest
from operators.dicom.transfer_syntaxes import COMPRESSED_SYNTAXES, NATIVE_SYNTAXES
from operators.errors import StartError
from operators.uids import file_sha256

logger = logging.getLogger(__name__)

STORED_CLASSES: Final = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
SYNTAXES: Final = (*NATIVE_SYNTAXES, *COMPRESSED_SYNTAXES)
"""Transfer syntaxes that the reader knows."""

SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700
WRONG_CLASS: Final = 0xA900
NOT_UNDERSTOOD: Final = 0xC000


class Refused(Exception):
    """An object that is not stored.

    Attributes:
        status: of the C-STORE response.
        why: for the sender and the log; no patient identity.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


def accepted_contexts() -> list[PresentationContext]:
    """What is accepted; others are refused with result 3 (abstract syntax not supported, PS3.8 9.3.3.2).

    Of storage commitment the reports: the PACS is the SCP there, and opens the association.
    """
    commitment = build_context(StorageCommitmentPushModel)
    commitment.scu_role = commitment.scp_role = True
    stored = [build_context(one, list(SYNTAXES)) for one in STORED_CLASSES]
    return [build_context(Verification), *stored, commitment]


def application_entity(settings: ListenerSettings) -> AE:
    """Our AE, with the titles that it lets in."""
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
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.ca:
            context.load_verify_locations(tls.ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:  # an SSLError is one
        text = f"listener.tls: cannot use certificate, key or ca ({error.strerror or 'not PEM'}); expected PEM files"
        raise StartError("TLS_INVALID", text) from error
    return context


def receive_into(spool: Spool) -> None:
    """Have pynetdicom write each C-STORE's data set into the spool while it arrives; for this process."""
    _config.STORE_RECV_CHUNKED_DATASET = True
    _config.LOG_HANDLER_LEVEL = "none"
    dimse_messages.NamedTemporaryFile = lambda **_: spool.open_incoming()  # type: ignore[attr-defined, assignment]


@dataclass(frozen=True, slots=True)
class Receiver:
    """What is done with an object that arrived.

    Attributes:
        spool: where it is kept.
        database: with its row.
    """

    spool: Spool
    database: Database
    _inflating: threading.Lock = field(default_factory=threading.Lock)  # an inflated file is held in memory

    def store(self, event: evt.Event) -> Dataset | int:
        """Answer a C-STORE request (PS3.7 9.1.1): the handler of EVT_C_STORE."""
        incoming = self.spool.take(event.dataset_path)
        if incoming is None:
            return _status(NOT_UNDERSTOOD, "the object did not arrive whole")
        remote, request = event.assoc.remote, event.request
        moved_to: Any = getattr(request, "MoveOriginatorApplicationEntityTitle", None)
        fetched = event.assoc.is_requestor or str(moved_to or "").strip() == event.assoc.ae.ae_title
        origin = Origin(str(remote["ae_title"]).strip(), str(remote["address"]), fetched)
        try:
            self._store(incoming, event, origin)
        except Refused as refused:
            logger.warning("%s at %s: refused, %s", origin.calling_ae, origin.address, refused.why)
            trail.refused(origin.calling_ae, origin.address, refused.why)
            return _status(refused.status, refused.why)
        except Exception:
            logger.exception("%s at %s: an object was not stored", origin.calling_ae, origin.address)
            raise  # pynetdicom answers C211
        finally:
            incoming.discard()
        return SUCCESS

    def _store(self, incoming: Incoming, event: evt.Event, origin: Origin) -> None:
        try:
            if incoming.refused or not self.spool.has_room():
                raise Refused(OUT_OF_RESOURCES, incoming.refused or "the disk is full")
            incoming.flush()
            who = self._identified(incoming.path, event)
            self._keep(incoming, who, origin)
        except OSError as error:
            raise Refused(OUT_OF_RESOURCES, f"the disk: {error.strerror or type(error).__name__}") from error
        except SQLAlchemyError as error:
            raise Refused(OUT_OF_RESOURCES, f"the database: {type(error).__name__}") from error

    def _identified(self, path: Path, event: evt.Event) -> Identity:
        request: Any = event.request
        try:
            if event.context.transfer_syntax == DeflatedExplicitVRLittleEndian:
                with self._inflating:
                    who = identify(path)
            else:
                who = identify(path)
        except ValueError as error:
            raise Refused(NOT_UNDERSTOOD, str(error)) from error
        if who.sop_class_uid != UID(str(request.AffectedSOPClassUID)):
            raise Refused(WRONG_CLASS, "the data set is of another SOP class than the request")
        if who.sop_uid != str(request.AffectedSOPInstanceUID):
            raise Refused(NOT_UNDERSTOOD, "the data set has another SOP Instance UID than the request")
        return who

    def _keep(self, incoming: Incoming, who: Identity, origin: Origin) -> None:
        known, purged = is_known(self.database, incoming.path, who, incoming.digest)
        if known:
            return
        kept, new = self.spool.keep(incoming, who.series_uid, who.sop_uid, _same_content, purged)
        there = self.spool.root / kept.path
        # Also where the file was there: its row may not be, if whoever wrote it was killed, or is at it.
        digest, size = (incoming.digest, incoming.size) if new else (file_sha256(there), there.stat().st_size)
        if record(self.database, kept, who, digest, size, origin):
            logger.info("%s at %s: kept %s", origin.calling_ae, origin.address, kept.path)


def _same_content(one: Path, other: Path) -> bool:
    digest = content_digest(one)
    return digest is not None and digest == content_digest(other)


def _status(status: int, why: str) -> Dataset:
    """Make a response with an error comment (PS3.7 C: LO of at most 64 characters)."""
    answer = Dataset()
    answer.Status, answer.ErrorComment = status, why[:64]
    return answer
