"""The loop of a background thread: one step after the other, which nothing but `stop` ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from app.pacs.database.engine import AWAY

logger = logging.getLogger(__name__)

PAUSE_S: Final = 5.0
"""After a step that broke."""


class Stopped(Exception):
    """The listener ends, in the middle of a step."""


class Service:
    """A step that is done again and again; whatever breaks in it is logged, and tried again.

    One bad row must not stop the others, so a step catches what is wrong with its row itself; what comes here is wrong
    with all of them.

    Attributes:
        wake: to be set when there may be something to do.
        hindrance: what keeps its step from going on; empty where nothing does.
    """

    def __init__(self, name: str, poll_s: float) -> None:
        """Set its name in the log, and how long it waits after a step that did nothing."""
        self.name, self.wake, self.hindrance = name, threading.Event(), ""
        self._poll_s, self._stop = poll_s, threading.Event()

    def stop(self) -> None:
        """End the loop after its present step."""
        self._stop.set()
        self.wake.set()

    def check_stop(self) -> None:
        """Leave a long step.

        Raises:
            Stopped: where the service is to end.
        """
        if self._stop.is_set():
            raise Stopped

    def hindered(self, by: str) -> None:
        """Log what keeps its step from going on, once until it changes; empty where nothing does any more."""
        if by and by != self.hindrance:
            logger.error("%s", by)
        self.hindrance = by

    def run(self, step: Callable[[], object]) -> None:
        """Repeat a step until `stop`; what it returns is true where it did something, and is called again at once."""
        while not self._stop.is_set():
            if not self._done(step):
                self.wake.wait(self._poll_s)
                self.wake.clear()

    def _done(self, step: Callable[[], object]) -> bool:
        try:
            return bool(step())
        except Stopped:
            return True
        except AWAY as error:
            logger.error("DATABASE_AWAY: %s in the %s; trying again in %g s", type(error).__name__, self.name, PAUSE_S)
            logger.debug("the %s", self.name, exc_info=True)
        except Exception as error:
            logger.error("INTERNAL_ERROR: %s in the %s; trying again in %g s", type(error).__name__, self.name, PAUSE_S)
            logger.debug("the %s", self.name, exc_info=True)
        self._stop.wait(PAUSE_S)
        return True
