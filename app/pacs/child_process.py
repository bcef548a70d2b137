"""The worker's child as its parent sees it: started, asked, watched, and ended when it passes a limit."""

from __future__ import annotations

import json
import logging
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from app.pacs.jobs import Request
from app.pacs.worker_settings import ChildLimits
from app.process import LogForm
from models.child_environment import child_environment
from operators.errors import CtvaeError, StartError

logger = logging.getLogger(__name__)

CHILD: Final = ("-P", "-m", "app.pacs.child")  # -P: an app.py in the current folder is not ours
JSON_LOG: Final = "--json-log"
START_S: Final = 180.0
"""Imports and the loading of the model may take so long, on a busy machine."""

TICK_S: Final = 0.5
_PAGE: Final = resource.getpagesize()


def child_program(form: LogForm) -> Sequence[str]:
    """Return the child's arguments of Python: its log has the form of its parent's."""
    return (*CHILD, JSON_LOG) if form == "json" else CHILD


class ChildEnded(CtvaeError):
    """The child is gone, by itself or because it passed a limit; the job it had has no answer."""


class ChildProcess:
    """One child at a time; a new one is started when it is needed.

    Attributes:
        loaded: whether the last start ended with a loaded model; false while a child starts.
    """

    def __init__(self, limits: ChildLimits, settings: Path | None = None, program: Sequence[str] = CHILD) -> None:
        """Set how it is run; nothing is started yet.

        Args:
            limits: of time and memory.
            settings: file of the settings; None for the usual one.
            program: arguments of Python.
        """
        self._limits, self._settings, self._program = limits, settings, program
        self._process: subprocess.Popen[bytes] | None = None
        self._said, self.loaded = b"", False

    @property
    def pid(self) -> int | None:
        """Of the running child."""
        process = self._process  # read once: the worker's thread may end it meanwhile
        return process.pid if process else None

    def start(self, tick: Callable[[], None]) -> None:
        """Start a child unless one runs, and wait until its model is loaded.

        Raises:
            StartError: settings or bundle are wrong.
            ChildEnded: `WORKER_DIED`, `WORKER_TIME` or `WORKER_MEMORY`.
        """
        if self._process and self._process.poll() is None:
            return
        self.end()
        self.loaded = False
        command = [sys.executable, *self._program, str(os.getpid())]
        command += [str(self._settings)] if self._settings else []
        pipe = subprocess.PIPE
        # It leads a group of its own, so that a Ctrl-C reaches its parent alone, which decides.
        self._process = subprocess.Popen(  # noqa: S603 — our own
            command, stdin=pipe, stdout=pipe, process_group=0, env=child_environment()
        )
        answer = self._answer(START_S, tick)
        if error := answer.get("error"):
            self.end()
            raise StartError(error["reason"], error["message"])
        self.loaded = bool(answer.get("ready"))

    def ask(self, request: Request, tick: Callable[[], None]) -> dict[str, Any]:
        """Send a job to the child and return its answer.

        Args:
            request: the job.
            tick: called again and again while it is done; what it raises ends the child, and is raised here.

        Raises:
            ChildEnded: `WORKER_DIED`, `WORKER_TIME` or `WORKER_MEMORY`.
        """
        process = self._running()
        try:
            process.stdin.write(json.dumps(asdict(request)).encode() + b"\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        except OSError as error:
            raise self._died() from error
        answer = self._answer(self._limits.time_s, tick)
        if answer.get("output") != request.output:  # of another job: nothing that it says from now on can be trusted
            self.end()
            raise ChildEnded("WORKER_DIED", "the worker's process answered something else; a new one is started")
        if self._memory_mb() > self._limits.memory_mb:
            self.end()  # the job is done; the next one gets a new child
        return answer

    def end(self) -> None:
        """End the child, where one runs."""
        process, self._process, self._said = self._process, None, b""
        if process:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with suppress(OSError):
                        pipe.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("no child was started")
        return self._process

    def _answer(self, time_s: float, tick: Callable[[], None]) -> dict[str, Any]:
        stdout = self._running().stdout
        handle, end = stdout.fileno(), time.monotonic() + time_s  # type: ignore[union-attr]
        try:
            while b"\n" not in self._said:
                if select.select([handle], [], [], TICK_S)[0]:
                    more = os.read(handle, 1 << 16)
                    if not more:
                        raise self._died()
                    self._said += more
                else:
                    tick()
                    self._check(end, time_s)
        except BaseException:
            self.end()
            raise
        line, _, self._said = self._said.partition(b"\n")
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {}

    def _check(self, end: float, time_s: float) -> None:
        if time.monotonic() > end:
            raise ChildEnded("WORKER_TIME", f"the job took more than {time_s:g} s; see listener.worker in the settings")
        if (found := self._memory_mb()) > self._limits.memory_mb:
            text = f"the job took {found:.0f} MB; expected at most {self._limits.memory_mb}, see listener.worker"
            raise ChildEnded("WORKER_MEMORY", text)

    def _died(self) -> ChildEnded:
        status = self._running().wait()
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        return ChildEnded("WORKER_DIED", f"the worker's process ended {how} while it had the job; see the log")

    def _memory_mb(self) -> float:
        """Return the child's resident memory; 0 where the system does not say."""
        try:
            pages = int(Path(f"/proc/{self._running().pid}/statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            return 0.0
        return pages * _PAGE / 1e6
