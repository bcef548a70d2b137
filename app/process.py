"""How every command starts and ends: the log, and what an error that stops the run looks like."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from types import FrameType

from app.usage import COULD_NOT_START, tolerate_any_text
from operators.types import CtvaeError, StartError

logger = logging.getLogger("ctvae")


class LogLevel(StrEnum):
    """The SDK's levels."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


def guarded(run: Callable[[], int], log_level: LogLevel) -> int:
    """Run, and turn what stops the whole run into one line on stderr and the contract's exit code.

    Args:
        run: gives the exit code.
        log_level: with DEBUG the traceback is shown as well.
    """
    tolerate_any_text()
    set_up_log(log_level)
    try:
        return run()
    except StartError as error:
        logger.debug("could not start", exc_info=True)
        logger.error("%s: %s", error.reason, error.message)
        return COULD_NOT_START
    except CtvaeError as error:
        logger.debug("the run failed", exc_info=True)
        logger.error("%s: %s", error.reason, error.message)
        return 1
    except KeyboardInterrupt:
        logger.error("INTERRUPTED: the run was stopped; what was written is whole; run again for the rest")
        return 1
    except Exception as error:  # the last boundary: one line for whoever runs it, the traceback for whoever mends it
        logger.debug("internal error", exc_info=True)
        logger.error(
            "INTERNAL_ERROR: %s; run again with --log-level DEBUG and report the traceback", type(error).__name__
        )
        return 1


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM, which ends a container or a service, stops the block as the keyboard would: in order, with a ledger."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there Python takes signals
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def set_up_log(level: LogLevel) -> None:
    """Log to stderr: libraries from warnings on, and of holoscan's C++ log errors alone, unless DEBUG is asked for."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    chosen = logging.getLevelNamesMapping()[level.value]
    root.setLevel(max(chosen, logging.WARNING))
    for ours in ("ctvae", "app", "operators", "models"):
        logging.getLogger(ours).setLevel(chosen)
    # These two quote values of headers, names of patients among them, in what they log and warn of.
    for quoting in ("pydicom", "highdicom"):
        logging.getLogger(quoting).setLevel(logging.CRITICAL)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.CRITICAL)
    os.environ.setdefault("HOLOSCAN_LOG_LEVEL", "INFO" if level is LogLevel.DEBUG else "ERROR")
