"""What a worker's process does: it answers a chunk of files with their rows, and a unit with how its series ended."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection

from app.cohort.encode_unit import Work, encode_unit
from app.cohort.ended import Ended
from app.cohort.look import Chunk, Looked, look
from app.open_pipeline import open_pipeline
from app.process import LogLevel, end_with_parent, set_up_log
from operators.errors import CtvaeError, RunFailed, StartError
from operators.pipeline import Pipeline

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stopped:
    """An error that stops the run, as one process tells it to another."""

    at_start: bool
    reason: str
    message: str

    @staticmethod
    def by(error: CtvaeError) -> Stopped:
        """Return what is said of an error."""
        return Stopped(isinstance(error, StartError), error.reason, error.message)

    def error(self) -> CtvaeError:
        """Return the error again, to be raised."""
        return (StartError if self.at_start else RunFailed)(self.reason, self.message)


@dataclass(frozen=True, slots=True)
class Lost:
    """An error that ends what the process was at, and nothing else."""

    reason: str
    message: str


def serve(connection: Connection, parent: int) -> None:
    """Answer until the parent ends; the model is opened for the first unit."""
    end_with_parent(parent)
    for number in (signal.SIGINT, signal.SIGTERM):  # at a Ctrl-C or a stop for all, the parent decides when this ends
        signal.signal(number, signal.SIG_IGN)
    set_up_log(LogLevel.ERROR)
    pipeline: Pipeline | None = None
    with suppress(EOFError, ConnectionError):
        try:
            while True:
                task, work = connection.recv()
                if isinstance(task, Chunk):
                    connection.send(_guarded(partial(look, task)))
                else:
                    pipeline = pipeline or _opened(work)
                    connection.send(_guarded(partial(encode_unit, task, work, pipeline)))
        except CtvaeError as error:
            connection.send(Stopped.by(error))


def _opened(work: Work) -> Pipeline:
    pipeline = open_pipeline(work.settings, work.models, None)
    if (pipeline.bundle.weights_sha256, pipeline.encoder.runtime) != (work.weights_sha256, work.runtime):
        raise StartError("BUNDLE_CHANGED", "the bundle changed since the run began; start again")
    return pipeline


def _guarded(answer: Callable[[], Looked | list[Ended]]) -> Looked | list[Ended] | Lost:
    try:
        return answer()
    except CtvaeError:
        raise
    except Exception as error:  # one file or unit must not stop the others
        logger.debug("what a process was at failed", exc_info=True)
        text = f"{type(error).__name__} inside ctvae; encode the study with --log-level DEBUG and report the traceback"
        return Lost("INTERNAL_ERROR", text)
