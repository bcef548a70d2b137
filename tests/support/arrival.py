"""The arrival half of a listener, which receives, completes and queues: here, or in a process that a test may kill.

Run as a program it has everything imported, and makes a process by a fork for each line FOLDER, tab, MOMENT.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.pacs import hooks
from app.pacs.arrivals import reconcile
from app.pacs.complete import Completer
from app.pacs.queue import enqueue
from app.pacs.settings import ListenerSettings
from app.pacs.work import Work
from tests.support.checkout import ROOT
from tests.support.listeners import PATIENT, Listener, listener

WORK = Work("weights", "configuration", version="0")


@contextmanager
def arrival(folder: Path) -> Iterator[tuple[Listener, Completer]]:
    """Receive as a start after a kill does, and complete and queue at each step of the completer."""
    settings = ListenerSettings(quiet_s=0, limits=PATIENT)
    with listener(folder, settings) as here:
        here.spool.sweep_at_start()
        reconcile(here.database, here.spool)

        def emit(connection, series_uid, instances):
            enqueue(connection, series_uid, instances, WORK)

        yield here, Completer(here.database, settings, emit)


Start = Callable[[Path, str], tuple[int, int]]
COMPLETE = signal.SIGUSR1
"""Tells a process that everything was sent."""


@contextmanager
def forking() -> Iterator[Start]:
    """A function that starts an arrival half in a process of its own: (folder, moment) → (process id, port)."""
    command = [sys.executable, "-m", "tests.support.arrival"]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=ROOT, env=environment, **pipes) as program:
        assert program.stdout is not None and program.stdin is not None

        def start(folder: Path, moment: str) -> tuple[int, int]:
            program.stdin.write(f"{folder}\t{moment}\n")
            program.stdin.flush()
            pid, port = program.stdout.readline().split()
            return int(pid), int(port)

        yield start
        program.stdin.close()


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that are killed
    signal.pthread_sigmask(signal.SIG_BLOCK, [COMPLETE])
    for line in iter(sys.stdin.readline, ""):
        folder, moment = line.rstrip("\n").split("\t")
        if os.fork() == 0:
            hooks._NAME, _, hooks._TIME = moment.partition(":")
            with arrival(Path(folder)) as (here, completer):
                os.write(1, f"{os.getpid()} {here.port}\n".encode())
                signal.sigwait([COMPLETE])
                completer.step()
                threading.Event().wait()


if __name__ == "__main__":
    main()
