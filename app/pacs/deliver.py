"""Sends what waits for one destination, one after the other; each destination has a thread, so none delays another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from pydicom import dcmread

from app.pacs import commitment, deliveries, trail
from app.pacs.copy_out import copy_out
from app.pacs.database.engine import AWAY, Database
from app.pacs.deliveries import Sending
from app.pacs.destination import Destination
from app.pacs.hooks import passing
from app.pacs.judge import Answer, Verdict
from app.pacs.places import Places
from app.pacs.service import Service
from app.pacs.store import store
from app.pacs.stow import stow
from operators.errors import CtvaeError

logger = logging.getLogger(__name__)

POLL_S: Final = 2.0
_MISSING: Final = Answer(Verdict.FINAL, None, "RESULT_MISSING")


class Deliverer:
    """Sends to one destination until it is stopped; runs in a thread.

    Attributes:
        service: the loop.
    """

    def __init__(self, database: Database, places: Places, destination: Destination, our_ae: str) -> None:
        """Set where to; nothing is sent yet."""
        self._database, self._places, self._to, self._our_ae = database, places, destination, our_ae
        self._lease_s = 4 * destination.timeout_s + 60
        self.service = Service(f"sender to {destination.name}", POLL_S)

    def run(self) -> None:
        """Send until the service is stopped."""
        self.service.run(self.deliver_one)

    def deliver_one(self) -> bool:
        """Send the next result, or ask about the next one that was sent; False where there is neither."""
        sending = deliveries.take(self._database, self._to.name, self._lease_s)
        if sending is not None:
            self._guarded(self._send, sending)
            return True
        if not self._to.commitment:
            return False
        sent = deliveries.take_unconfirmed(self._database, self._to.name, self._lease_s)
        if sent is not None:
            self._guarded(self._ask_about, sent)
        return sent is not None

    def _guarded(self, act: Callable[[Sending], None], sending: Sending) -> None:
        """Send or confirm one result; after an unexpected error it goes behind the others, and gives up in the end."""
        try:
            act(sending)
        except AWAY:
            raise
        except Exception as error:
            known = error.reason if isinstance(error, CtvaeError) else None
            reason = known or f"INTERNAL_ERROR ({type(error).__name__})"
            logger.error("%s: delivery %d to %s", reason, sending.delivery_id, self._to.name)
            logger.debug("delivery %d", sending.delivery_id, exc_info=True)
            if sending.state == "sent":
                deliveries.postpone(self._database, sending, self._to.backoff.longest_s, reason)
            else:
                deliveries.mark_again(self._database, sending, Answer(Verdict.RETRY, None, reason), self._to)

    def _send(self, sending: Sending) -> None:
        answer = self._answer(sending)
        passing("send.answer.after")
        verdict = answer.verdict
        if verdict is Verdict.FALL_BACK:
            verdict = Verdict.RETRY if deliveries.fall_back(self._database, sending, answer) else Verdict.FINAL
        elif verdict is Verdict.DELIVERED:
            deliveries.mark_sent(self._database, sending, answer)
        elif verdict is Verdict.RETRY:
            if not deliveries.mark_again(self._database, sending, answer, self._to):
                verdict = Verdict.FINAL
        else:
            deliveries.mark_failed(self._database, sending, answer)
        level = {Verdict.DELIVERED: logging.INFO, Verdict.RETRY: logging.WARNING}.get(verdict, logging.ERROR)
        about = sending.delivery_id, self._to.name, verdict.name, answer.status or "no status", answer.reason or ""
        logger.log(level, "delivery %d to %s: %s, %s %s", *about)
        if verdict in (Verdict.DELIVERED, Verdict.FINAL):
            trail.sent(sending, self._to, answer, delivered=verdict is Verdict.DELIVERED)

    def _answer(self, sending: Sending) -> Answer:
        path = self._places.results / sending.path
        if not path.is_file():
            return _MISSING
        if self._to.kind == "folder":
            return self._copied(sending)
        return stow(self._to, path) if self._to.kind == "stow" else store(self._to, path, self._our_ae)

    def _copied(self, sending: Sending) -> Answer:
        """Copy a result; of one whose place another has taken the copy would hide that one."""
        if deliveries.is_replaced(self._database, sending):
            return Answer(Verdict.DELIVERED, "REPLACED")
        return copy_out(self._to, self._places.results / sending.path)

    def _ask_about(self, sending: Sending) -> None:
        """Ask for storage commitment; where that was asked and nothing came, ask whether the instance is there."""
        if sending.age_s > self._to.give_up_h * 3600:
            deliveries.mark_failed(self._database, sending, Answer(Verdict.FINAL, None, "NOT_CONFIRMED"))
            return
        transaction = deliveries.open_commitment(self._database, sending)
        if transaction is None:
            self._ask_commitment(sending)
            return
        deliveries.close_commitment(self._database, transaction, "unanswered", "no report in time")
        there = self._is_there(sending)
        if there:
            deliveries.mark_confirmed(self._database, sending, "FOUND_BY_QUERY")
        elif there is False:
            deliveries.mark_again(self._database, sending, Answer(Verdict.RETRY, None, "NOT_FOUND_BY_QUERY"), self._to)
        else:
            self._ask_commitment(sending)

    def _ask_commitment(self, sending: Sending) -> None:
        transaction = deliveries.begin_commitment(self._database, sending, self._to.commitment_wait_s)
        wrong = commitment.ask(self._to, self._our_ae, sending, transaction, self._database)
        if not wrong:
            return
        deliveries.close_commitment(self._database, transaction, "unanswered", wrong)
        if self._is_there(sending):
            deliveries.mark_confirmed(self._database, sending, "FOUND_BY_QUERY")
            return
        logger.warning("%s: storage commitment of delivery %d by %s", wrong, sending.delivery_id, self._to.name)
        deliveries.postpone(self._database, sending, self._to.backoff.longest_s, wrong)

    def _is_there(self, sending: Sending) -> bool | None:
        header = dcmread(self._places.results / sending.path, specific_tags=["StudyInstanceUID", "SeriesInstanceUID"])
        where = str(header.StudyInstanceUID), str(header.SeriesInstanceUID)
        return commitment.holds(self._to, self._our_ae, sending, *where)
