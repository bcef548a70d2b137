"""How every command starts and ends: arguments, signals, the log, and the boundary where errors become exit codes.

Imports nothing heavy: `ctvae --help` and `monai-deploy` start from here.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from types import FrameType
from typing import Final, Literal, NoReturn

from app.exit_codes import COULD_NOT_START, FAILED
from app.extras import lacking
from app.json_log import JsonLines

logger = logging.getLogger("ctvae")
LogForm = Literal["text", "json"]
_PR_SET_PDEATHSIG: Final = 1
_stop_came: Final = threading.Event()


class LogLevel(StrEnum):
    """The SDK's log levels."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser that reports a wrong call in one line and exits with code 3 instead of argparse's 2."""

    def error(self, message: str) -> NoReturn:
        """Report the wrong call and end the process."""
        self.exit(COULD_NOT_START, f"USAGE: {message}; see {self.prog} --help\n")


def guarded(run: Callable[[], int], log_level: LogLevel) -> int:
    """Run a command; an error that stops the whole run becomes one line on stderr and an exit code.

    SIGTERM and SIGINT end the run in an orderly way: its `with` blocks are left, so that a ledger is written and
    temporary files are removed.

    Args:
        run: returns the exit code.
        log_level: DEBUG shows the traceback too.
    """
    tolerate_any_text()
    set_up_log(log_level)
    try:
        with stoppable():
            return _reported(run)
    except KeyboardInterrupt:
        logger.error("INTERRUPTED: the run was stopped; no file is half written; run the same command again")
        return FAILED


def _reported(run: Callable[[], int]) -> int:
    from operators.errors import CtvaeError, StartError
    from operators.system_error import system_reason

    try:
        return run()
    except StartError as error:
        logger.debug("could not start", exc_info=True)
        logger.error("%s: %s", error.reason, error.message)
        return COULD_NOT_START
    except CtvaeError as error:
        logger.debug("the run failed", exc_info=True)
        logger.error("%s: %s", error.reason, error.message)
        return FAILED
    except OSError as error:  # its path may hold a name, so only DEBUG shows it
        logger.debug("an error of the system", exc_info=True)
        logger.error("INPUT_OUTPUT_ERROR: the system reported: %s; --log-level DEBUG shows where", system_reason(error))
        return FAILED
    except Exception as error:  # the last boundary: one line for the user, the traceback for the developer
        logger.debug("internal error", exc_info=True)
        missing = lacking(error)
        if missing:
            logger.error("%s", missing)
            return COULD_NOT_START
        logger.error(
            "INTERNAL_ERROR: %s; run again with --log-level DEBUG and report the traceback", type(error).__name__
        )
        return FAILED


@contextmanager
def starting() -> Iterator[None]:
    """Turn an error of the system before the run begins into a `StartError`: `NOT_ACCESSIBLE`."""
    from operators.errors import StartError
    from operators.system_error import remedy

    try:
        yield
    except OSError as error:
        text = f"{error.strerror or type(error).__name__}: {error.filename}; {remedy(error)}"
        raise StartError("NOT_ACCESSIBLE", text) from error


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM, which ends a container or a service, stop the block like Ctrl-C."""

    def stop(number: int, frame: FrameType | None) -> None:
        _stop_came.set()
        raise KeyboardInterrupt

    _stop_came.clear()
    if threading.current_thread() is not threading.main_thread():  # Python delivers signals only there
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stop_if_asked() -> None:
    """Stop where SIGTERM came and a library swallowed what it raised, as C++ may that calls Python.

    Raises:
        KeyboardInterrupt: SIGTERM came in this `stoppable` block.
    """
    if _stop_came.is_set():
        raise KeyboardInterrupt


def end_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent ends; elsewhere the end of its pipe ends it between two jobs."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it had ended already
        sys.exit(0)


def set_up_log(level: LogLevel, form: LogForm = "text") -> None:
    """Log to stderr: ctvae from `level` on, libraries from warnings on, holoscan's C++ only errors unless DEBUG."""
    root = logging.getLogger()
    root.handlers[:] = [logging.StreamHandler(sys.stderr)]
    set_log_form(form)
    chosen = logging.getLevelNamesMapping()[level.value]
    root.setLevel(max(chosen, logging.WARNING))
    for ours in ("ctvae", "app", "operators", "models"):
        logging.getLogger(ours).setLevel(chosen)
    # These libraries quote header values, including patients' names, in logs and warnings.
    for quoting in ("pydicom", "highdicom", "pynetdicom"):
        logging.getLogger(quoting).setLevel(logging.CRITICAL)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.CRITICAL)
    os.environ.setdefault("HOLOSCAN_LOG_LEVEL", "INFO" if level is LogLevel.DEBUG else "ERROR")


def set_log_form(form: LogForm) -> None:
    """Set the format of the log: text for people or, as `json`, one object per line for log collectors."""
    formatter = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines() if form == "json" else formatter)


def tolerate_any_text() -> None:
    """Print a question mark for characters the terminal cannot encode, such as × or –, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
