"""The local engine: processes that look at files and encode units, each with a fixed number of encoder threads.

A process that dies or takes too much memory or time costs what it was at, not the run. All of them end with this
process, however it ends.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final, TypeVar

from app.cohort.encode_unit import Work, failed
from app.cohort.ended import Ended
from app.cohort.look import Chunk, Looked, given_up
from app.cohort.serve import Lost, Stopped, serve
from app.cohort.units import Unit
from operators.errors import SeriesFailed

logger = logging.getLogger(__name__)

TICK_S: Final = 0.5
_PAGE: Final = resource.getpagesize()
OnEnded = Callable[[Unit, Sequence[Ended]], None]
T = TypeVar("T", Unit, Chunk)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the local engine.

    Attributes:
        workers: processes that encode.
        memory_mb: of one process; the unit that takes more fails.
        unit_s: seconds for one unit; one that takes longer fails.
        readers: processes that read headers for the index; None for as many as encode.
    """

    workers: int
    memory_mb: int = 4096
    unit_s: float = 3600.0
    readers: int | None = None


class Team:
    """Processes that stay between calls; each is started when there is something to do for it."""

    def __init__(self, limits: Limits) -> None:
        """Start nothing yet.

        Args:
            limits: of the processes.
        """
        self._limits = limits
        self._processes = [_Process() for _ in range(max(limits.workers, limits.readers or 0))]

    def start(self, processes: int) -> None:
        """Start so many now, so that they import while the command opens the model."""
        for one in self._processes[:processes]:
            one.start()

    def look(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, Looked]]:
        """Yield chunks of files with their rows, in the order in which they are read.

        Where a process fails, the files of its chunk are read one by one; one that fails again has a row that says so.
        """
        lost: list[tuple[Chunk, SeriesFailed]] = []
        readers = self._processes[: self._limits.readers or self._limits.workers]
        for chunk, answer in self._done(chunks, readers, None):
            if isinstance(answer, SeriesFailed):
                lost.append((chunk, answer))
            else:
                yield chunk, answer
        for chunk, error in lost:
            if len(chunk.files) > 1:
                yield from self.look(chunk.each())
            else:
                yield chunk, given_up(chunk, error)

    def encode(self, units: Iterable[Unit], work: Work, on_ended: OnEnded) -> None:
        """Encode units.

        Args:
            units: taken one by one, as processes become free.
            work: what is done to each; the same in all calls.
            on_ended: called once per unit, in the order in which they end.

        Raises:
            StartError: a process cannot open the model, or finds another one.
            RunFailed: the output folder cannot be written.
        """
        for surplus in self._processes[self._limits.workers :]:
            surplus.end()
        for unit, answer in self._done(units, self._processes[: self._limits.workers], work):
            on_ended(unit, failed(unit, answer) if isinstance(answer, SeriesFailed) else answer)

    def end(self) -> None:
        """End all processes, whatever they are at."""
        for one in self._processes:
            one.end()

    def _done(self, tasks: Iterable[T], processes: Sequence[_Process], work: Work | None) -> Iterator[tuple[T, Any]]:
        """Yield each task with its answer, in the order in which they come, or with why there is none."""
        waiting, again = iter(tasks), deque[T]()
        while True:
            for one in processes:
                if one.task is None:
                    last_try = bool(again)
                    task = again.popleft() if again else next(waiting, None)
                    if task is not None:
                        one.give(task, work, last_try=last_try)
            busy = [one for one in processes if one.task]
            if not busy:
                return
            wait([one.connection for one in busy], TICK_S)
            for one in busy:
                task, answer = one.task, one.answer(self._limits)
                if isinstance(answer, SeriesFailed) and answer.reason == "WORKER_DIED" and not one.last_try:
                    logger.warning("a process ended unexpectedly; what it was at is tried once more")
                    again.append(task)
                elif answer is not None:
                    yield task, answer


class _Process:
    """One process as its parent sees it; started when there is something to do at the latest, and anew after its death.

    Attributes:
        task: what it works on; None where it is free.
        last_try: whether it is given up if the process dies.
        connection: to it.
    """

    def __init__(self) -> None:
        self._process: multiprocessing.process.BaseProcess | None = None
        self._since = 0.0
        self.task: Any = None
        self.last_try = False
        self.connection: Connection

    def start(self) -> None:
        if self._process is None:
            spawn = multiprocessing.get_context("spawn")
            self.connection, theirs = spawn.Pipe()
            self._process = spawn.Process(target=serve, args=(theirs, os.getpid()), daemon=True)
            self._process.start()
            theirs.close()

    def give(self, task: Unit | Chunk, work: Work | None, *, last_try: bool) -> None:
        self.start()
        self.task, self.last_try, self._since = task, last_try, time.monotonic()
        with suppress(OSError):  # it is dead: the answer says so
            self.connection.send((task, work))

    def answer(self, limits: Limits) -> list[Ended] | Looked | SeriesFailed | None:
        """Return what became of the task; None while it is worked on."""
        wrong = None
        try:
            if self.connection.poll():
                answer: list[Ended] | Looked | Lost | Stopped = self.connection.recv()
                if isinstance(answer, Stopped):
                    raise answer.error()
                self.task = None
                return SeriesFailed(answer.reason, answer.message) if isinstance(answer, Lost) else answer
            wrong = self._beyond(limits)
        except (EOFError, ConnectionError):
            wrong = SeriesFailed("WORKER_DIED", "the process ended unexpectedly; find out why, then run again")
        if wrong:
            self.end()
        return wrong

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self.connection.close()
        self._process = self.task = None

    def _beyond(self, limits: Limits) -> SeriesFailed | None:
        if time.monotonic() - self._since > limits.unit_s:
            text = f"it took more than {limits.unit_s:.0f} s; look at it with `ctvae inspect --pixels`"
            return SeriesFailed("WORKER_TIME", text)
        if self._memory_mb() > limits.memory_mb:
            text = f"it took more than {limits.memory_mb} MB in one process; give more with --memory"
            return SeriesFailed("WORKER_MEMORY", text)
        return None

    def _memory_mb(self) -> float:
        """Return the memory that the process holds now; 0 where the system does not say."""
        pid = self._process.pid if self._process else None
        try:
            return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE / 1e6
        except (OSError, ValueError, IndexError):
            return 0.0
