"""Storage Commitment Push Model (PS3.4 J): asking a PACS to answer for what it was sent, and hearing its report.

The report comes once, often on a new association within milliseconds. So the transaction is in the database before the
question is asked, and the listener accepts such an association.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
)

from app.pacs.database.engine import Database
from app.pacs.deliveries import Sending, report_commitment
from app.pacs.destination import Destination
from app.pacs.outgoing import NoAssociation
from app.pacs.store import accepts, association, no_association

logger = logging.getLogger(__name__)

INSTANCE: Final = "1.2.840.10008.1.20.1.1"
"""Storage Commitment Push Model SOP Instance, the same everywhere."""

REQUEST: Final = 1
NO_SUCH_OBJECT: Final = 0x0112
PROCESSING_FAILURE: Final = 0x0110


def ask(destination: Destination, our_ae: str, sending: Sending, transaction_uid: str, database: Database) -> str:
    """Ask a PACS to take over the responsibility for an instance.

    Returns:
        Empty where the question was taken; else why not.
    """
    question, item = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sending.sop_class_uid, sending.sop_uid
    question.TransactionUID, question.ReferencedSOPSequence = transaction_uid, [item]
    handlers: list[EventHandlerType] = [(evt.EVT_N_EVENT_REPORT, report_handler(database))]
    try:
        with association(destination, our_ae, [str(StorageCommitmentPushModel)], handlers) as peer:
            if not accepts(peer, str(StorageCommitmentPushModel)):
                return "COMMITMENT_NOT_ACCEPTED"
            try:
                answer, _ = peer.send_n_action(question, REQUEST, StorageCommitmentPushModel, INSTANCE)
            except RuntimeError:
                return "ASSOCIATION_LOST"
    except NoAssociation as error:
        return no_association(error)
    status = answer.get("Status")
    if status is None:
        return "ASSOCIATION_LOST"
    return "" if status == 0 else f"0x{int(status):04X}"


def holds(destination: Destination, our_ae: str, sending: Sending, study_uid: str, series_uid: str) -> bool | None:
    """Ask a PACS by C-FIND whether it has an instance; None where it does not say."""
    model = str(StudyRootQueryRetrieveInformationModelFind)
    question = Dataset()
    question.QueryRetrieveLevel = "IMAGE"
    question.StudyInstanceUID, question.SeriesInstanceUID = study_uid, series_uid
    question.SOPInstanceUID = sending.sop_uid
    try:
        with association(destination, our_ae, [model]) as peer:
            if not accepts(peer, model):
                return None
            answers = list(peer.send_c_find(question, model))
    except (NoAssociation, RuntimeError):  # pynetdicom's, where the association was aborted since
        return None
    statuses = [status.get("Status") for status, _ in answers]
    if not statuses or statuses[-1] != 0:
        return None
    found = [match for _, match in answers if match is not None]
    return any(str(match.get("SOPInstanceUID", "")) == sending.sop_uid for match in found)


def report_handler(
    database: Database, on_report: Callable[[], None] = lambda: None
) -> Callable[[Event], tuple[int, None]]:
    """Return the handler of N-EVENT-REPORT, for the listener and for our own associations.

    The listener adds the context with our role: `add_supported_context(StorageCommitmentPushModel, scu_role=True,
    scp_role=True)`.

    Args:
        database: of the queue.
        on_report: called when something is to be sent again.
    """

    def heard(event: Event) -> tuple[int, None]:
        try:
            report = event.event_information
            transaction = str(report.TransactionUID)
            committed = {str(one.ReferencedSOPInstanceUID) for one in report.get("ReferencedSOPSequence") or []}
            failed = {
                str(one.ReferencedSOPInstanceUID): int(one.get("FailureReason") or PROCESSING_FAILURE)
                for one in report.get("FailedSOPSequence") or []
            }
        except Exception as error:  # whatever a peer sends
            logger.warning("BAD_REPORT: a storage commitment report cannot be read (%s)", type(error).__name__)
            logger.debug("a storage commitment report", exc_info=True)
            return PROCESSING_FAILURE, None
        if not report_commitment(database, transaction, committed, failed):
            return NO_SUCH_OBJECT, None
        on_report()
        return 0x0000, None

    return heard
