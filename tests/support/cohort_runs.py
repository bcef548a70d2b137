"""Runs of `ctvae cohort` in a process of their own, which kill themselves at a chosen moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

from app.cohort import run
from app.cohort.ended import EndedStore
from app.cohort.local import Limits
from app.settings import EncodeSettings, Settings
from operators.make_record import Disclosure

SETTINGS = Settings(encode=EncodeSettings(device="cpu"), privacy=Disclosure(site_key=b"a site"))


def run_here(data: Path, output: Path, workers: int = 1, settings: Settings = SETTINGS, files: str = "none") -> int:
    """Run in this process; those that encode are its children."""
    return run.run_cohort(data, output, None, settings, run.Options(Limits(workers), files))


def never_answer(connection: Connection, parent: int) -> None:
    """Be a process that works and works, in the place of the one that serves a run."""
    while True:
        connection.recv()


def run_and_die(data: Path, output: Path, workers: int, units: int, *, entered: bool) -> None:
    """Be killed as `kill -9` does at the end of a unit, before or after it is entered; leave the children's ids."""
    enter, left = EndedStore.enter, iter(range(units, 0, -1))

    def enter_and_die(self, unit, ended):
        last = next(left) == 1
        if entered or not last:
            enter(self, unit, ended)
        if last:
            children = [str(child.pid) for child in multiprocessing.active_children()]
            (output / "children").write_text("\n".join(children))
            os.kill(os.getpid(), signal.SIGKILL)

    EndedStore.enter = enter_and_die
    run_here(data, output, workers)
