"""An association that we open receives every answer of its peer, even when its own threads run late."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from app.pacs.destination import Destination
from app.pacs.store import SR_CLASSES, association
from tests.support.peer import peer
from tests.support.waiting import PATIENCE_S, until

TO = Destination("PACS", ae_title="PACS", timeout_s=PATIENCE_S)


class LateCheckpoint(threading.Event):
    """A checkpoint that the association's thread passes once, and then runs on only when the answer has come.

    This is what happens when a busy machine interrupts the thread there.
    """

    def __init__(self, assoc: Any) -> None:
        super().__init__()
        self.set()
        self._assoc, self.passed, self.back = assoc, threading.Event(), threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        if self.passed.is_set():
            self.back.set()
            return super().wait(timeout)
        self.passed.set()
        until(lambda: self._assoc.dimse.msg_queue.queue)
        return True


def test_an_answer_is_not_taken_by_the_thread_that_looks_for_requests():
    with peer() as pacs, association(replace(TO, port=pacs.port), "CTVAE", SR_CLASSES) as to:
        assert to
        checkpoint = to._reactor_checkpoint = LateCheckpoint(to)
        send = to.dimse.send_msg

        def send_msg(*about: Any) -> None:
            send(*about)
            assert checkpoint.back.wait(PATIENCE_S)  # the association's thread has run on

        to.dimse.send_msg = send_msg
        assert checkpoint.passed.wait(PATIENCE_S)
        assert to.send_c_echo().get("Status") == 0
