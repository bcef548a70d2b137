"""The local engine: processes that encode one unit after the other, each with a fixed number of encoder threads.

A process that dies or takes too much memory or time costs the unit it was at, not the run. All of them end with this
process, however it ends.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Final

from app.cohort.encode_unit import Work, encode_unit, failed
from app.cohort.ended import Ended
from app.cohort.units import Unit
from app.open_pipeline import open_pipeline
from app.process import LogLevel, end_with_parent, set_up_log
from operators.errors import CtvaeError, RunFailed, SeriesFailed, StartError
from operators.pipeline import Pipeline

logger = logging.getLogger(__name__)

TICK_S: Final = 0.5
ATTEMPTS: Final = 2
_PAGE: Final = resource.getpagesize()
OnEnded = Callable[[Unit, Sequence[Ended]], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the local engine.

    Attributes:
        workers: processes.
        memory_mb: of one process; the unit that takes more fails.
        unit_s: seconds for one unit; one that takes longer fails.
    """

    workers: int
    memory_mb: int = 4096
    unit_s: float = 3600.0


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


def encode_locally(units: Iterable[Unit], work: Work, limits: Limits, on_ended: OnEnded) -> None:
    """Encode units in processes that end with this call; see `Team.encode`."""
    team = Team(work, limits)
    try:
        team.encode(units, on_ended)
    finally:
        team.end()


class Team:
    """Processes that stay between calls; each is started when there is something to do for it."""

    def __init__(self, work: Work, limits: Limits) -> None:
        """Start nothing yet.

        Args:
            work: what is done to each unit.
            limits: of the processes.
        """
        self._limits = limits
        self._processes = [_Process(work) for _ in range(limits.workers)]

    def encode(self, units: Iterable[Unit], on_ended: OnEnded) -> None:
        """Encode units.

        Args:
            units: taken one by one, as processes become free.
            on_ended: called once per unit, in the order in which they end.

        Raises:
            StartError: a process cannot open the model, or finds another one.
            RunFailed: the output folder cannot be written.
        """
        waiting, again = iter(units), deque[Unit]()
        attempts: dict[str, int] = {}
        while True:
            for one in self._processes:
                if one.unit is None and (unit := again.popleft() if again else next(waiting, None)):
                    one.give(unit)
            busy = [one for one in self._processes if one.unit]
            if not busy:
                return
            wait([one.connection for one in busy], TICK_S)
            for one in busy:
                unit = one.unit
                if unit is None:
                    continue
                ended = one.answer(self._limits)
                if isinstance(ended, SeriesFailed):
                    attempts[unit.name] = attempts.get(unit.name, 0) + 1
                    if ended.reason == "WORKER_DIED" and attempts[unit.name] < ATTEMPTS:
                        logger.warning("a process ended while it encoded a study; the study is tried once more")
                        again.append(unit)
                        continue
                    ended = failed(unit, ended)
                if ended is not None:
                    on_ended(unit, ended)

    def end(self) -> None:
        """End all processes, whatever they are at."""
        for one in self._processes:
            one.end()


class _Process:
    """One process as its parent sees it; started when there is something to do, and anew after its death.

    Attributes:
        unit: what it works on; None where it is free.
        connection: to it.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._process: multiprocessing.process.BaseProcess | None = None
        self._since = 0.0
        self.unit: Unit | None = None
        self.connection: Connection

    def give(self, unit: Unit) -> None:
        if self._process is None:
            spawn = multiprocessing.get_context("spawn")
            self.connection, theirs = spawn.Pipe()
            self._process = spawn.Process(target=_serve, args=(theirs, self._work, os.getpid()), daemon=True)
            self._process.start()
            theirs.close()
        self.unit, self._since = unit, time.monotonic()
        with suppress(OSError):  # it is dead: the answer says so
            self.connection.send(unit)

    def answer(self, limits: Limits) -> list[Ended] | SeriesFailed | None:
        """Return what became of the unit; None while it is worked on."""
        wrong = None
        try:
            if self.connection.poll():
                answer: list[Ended] | Stopped = self.connection.recv()
                if isinstance(answer, Stopped):
                    raise answer.error()
                self.unit = None
                return answer
            wrong = self._beyond(limits)
        except (EOFError, ConnectionError):
            wrong = SeriesFailed(
                "WORKER_DIED", "the process that encoded the study ended unexpectedly; find out why, then run again"
            )
        if wrong:
            self.end()
        return wrong

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self.connection.close()
        self._process = self.unit = None

    def _beyond(self, limits: Limits) -> SeriesFailed | None:
        if time.monotonic() - self._since > limits.unit_s:
            text = f"the study took more than {limits.unit_s:.0f} s; look at it with `ctvae inspect --pixels`"
            return SeriesFailed("WORKER_TIME", text)
        if self._memory_mb() > limits.memory_mb:
            text = f"the study took more than {limits.memory_mb} MB in one process; give more with --memory"
            return SeriesFailed("WORKER_MEMORY", text)
        return None

    def _memory_mb(self) -> float:
        """Return the memory that the process holds now; 0 where the system does not say."""
        pid = self._process.pid if self._process else None
        try:
            return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE / 2**20
        except (OSError, ValueError, IndexError):
            return 0.0


def _serve(connection: Connection, work: Work, parent: int) -> None:
    """Answer each unit with how its series ended, or with the error that stops the run."""
    end_with_parent(parent)
    for number in (signal.SIGINT, signal.SIGTERM):  # at a Ctrl-C or a stop for all, the parent decides when this ends
        signal.signal(number, signal.SIG_IGN)
    set_up_log(LogLevel.ERROR)
    with suppress(EOFError, ConnectionError):
        try:
            pipeline = open_pipeline(work.settings, work.models, None)
            if (pipeline.bundle.weights_sha256, pipeline.encoder.runtime) != (work.weights_sha256, work.runtime):
                raise StartError("BUNDLE_CHANGED", "the bundle changed since the run began; start again")
            while True:
                connection.send(_guarded(connection.recv(), work, pipeline))
        except CtvaeError as error:
            connection.send(Stopped.by(error))


def _guarded(unit: Unit, work: Work, pipeline: Pipeline) -> list[Ended]:
    try:
        return encode_unit(unit, work, pipeline)
    except CtvaeError:
        raise
    except Exception as error:  # one unit must not stop the others
        logger.debug("unit %s", unit.folder_name, exc_info=True)
        text = f"{type(error).__name__} inside ctvae; encode the study with --log-level DEBUG and report the traceback"
        return failed(unit, SeriesFailed("INTERNAL_ERROR", text))
