"""Takes one job after the other, has its child do it, and says what came of it.

Doing a job twice does no harm: each lease has a folder of its own for its results, and only who still holds the lease
enters them into the database.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select

from app.pacs import trail
from app.pacs.child_process import CHILD, ChildEnded, ChildProcess
from app.pacs.database.engine import AWAY, Database
from app.pacs.database.tables import job, result
from app.pacs.hooks import passing
from app.pacs.jobs import Became, Ended, Lease, Listed, LostLease, Made, Request
from app.pacs.places import Places
from app.pacs.queue import current_results, fail, finish, heartbeat, lease, listed, put_back
from app.pacs.service import Service, Stopped
from app.pacs.worker_settings import WorkerSettings
from operators.errors import StartError
from operators.results.atomic import fsync_folder

logger = logging.getLogger(__name__)

_LEFT_OUT: Final = "LEFT_OUT"
_FOLDER: Final = re.compile(r"(\d{1,18})-(\d{1,18})")


class Worker:
    """Works until it is stopped; runs in a thread, its child in a process.

    Attributes:
        service: the loop.
    """

    def __init__(
        self,
        database: Database,
        places: Places,
        settings: WorkerSettings,
        destinations_of: Callable[[str], Iterable[str]],
        *,
        on_done: Callable[[], None] = lambda: None,
        settings_file: Path | None = None,
        program: Sequence[str] = CHILD,
    ) -> None:
        """Set how it works; nothing is started yet.

        Args:
            database: of the queue.
            places: of spool and results.
            settings: of the worker.
            destinations_of: calling AE title → names of the destinations to which the results go.
            on_done: called when there is something to send.
            settings_file: for the child.
            program: that the child is.
        """
        self._database, self._places, self._settings = database, places, settings
        self._destinations_of, self._on_done = destinations_of, on_done
        self._child = ChildProcess(settings.limits, settings_file, program)
        self.service, self._swept = Service("worker", settings.poll_s), False
        self._name = f"{platform.node()}:{os.getpid()}"

    @property
    def child(self) -> int | None:
        """Process id of the child."""
        return self._child.pid

    @property
    def ready(self) -> bool:
        """Whether the model is loaded; a child that ended since then is replaced when the next job comes."""
        return self._child.loaded

    def run(self) -> None:
        """Work until the service is stopped."""
        try:
            self._warm_up()
            self.service.run(self._step)
        except Stopped:
            return
        finally:
            self._child.end()

    def _warm_up(self) -> None:
        """Start the child, which loads the model, before the first job comes; where that fails, each job says so."""
        try:
            self._child.start(self.service.check_stop)
        except (ChildEnded, StartError) as error:
            logger.error("%s: %s", error.reason, error.message)
        except OSError as error:
            logger.error("WORKER_DIED: the process that encodes cannot be started (%s)", error.strerror)

    def _step(self) -> bool:
        if not self._swept:
            self._places.make()
            sweep(self._database, self._places)
            self._swept = True
        return self.work_one()

    def work_one(self) -> bool:
        """Take the next job and do it; False where there is none.

        Raises:
            Stopped: in the middle of it; it was put back.
        """
        held = lease(self._database, self._name, self._settings.lease_s)
        if held is None:
            return False
        kept = True  # unless it is known that the results were not entered
        try:
            kept = self._end(held, self._done(held))
        except LostLease:
            kept = False
            logger.warning("LOST_LEASE: job %d took longer than its lease; another worker has it", held.job_id)
        except Stopped:
            kept = False
            put_back(self._database, held)
            raise
        finally:
            shutil.rmtree(self._work(held), ignore_errors=True)
            if not kept:
                shutil.rmtree(self._results(held), ignore_errors=True)
        return True

    def _done(self, held: Lease) -> Ended:
        prolong = _Prolonging(self._database, held, self._settings.lease_s, self.service.check_stop)
        files = listed(self._database, held.job_id)
        output = self._results(held)
        try:
            self._link(held, files)
            self._make(output)
            self._child.start(prolong)
            answer = self._child.ask(self._request(held, output), prolong)
            passing("work.answer.after")
            if wrong := answer.get("error"):
                return Ended("failed", wrong["reason"], wrong["message"])
            fsync_folder(output)
            return _ended(answer, files, output.name)
        except (ChildEnded, StartError) as error:
            return Ended("failed", error.reason, error.message)
        except OSError as error:
            text = f"the system said: {error.strerror}; check that the spool is whole and its disk has room"
            return Ended("failed", "INPUT_OUTPUT_ERROR", text)
        except (*AWAY, LostLease, Stopped):
            raise
        except Exception as error:  # one job must not stop the others
            logger.debug("job %d", held.job_id, exc_info=True)
            return _broken(error)

    def _end(self, held: Lease, ended: Ended) -> bool:
        """Enter how a job ended; whether its results are kept."""
        settings = self._settings
        if ended.state == "failed":
            self.service.check_stop()  # what ends us may have ended the graph: that is no fault of the job
        if ended.state == "failed" and fail(self._database, held, ended, settings.backoff, settings.attempts):
            logger.warning("%s: job %d is tried again: %s", ended.reason, held.job_id, ended.message)
            return False
        shadow = held.work.kind == "shadow"
        try:
            finish(self._database, held, ended, () if shadow else self._destinations_of(held.source_ae))
        except (*AWAY, LostLease):
            raise
        except Exception as error:
            if ended.state == "failed":
                raise
            logger.debug("job %d cannot be entered", held.job_id, exc_info=True)
            return self._end(held, _broken(error))
        logger.info("job %d ended %s %s", held.job_id, ended.state, ended.reason or "")
        trail.worked(held, ended)
        self._on_done()
        return bool(ended.made)

    def _request(self, held: Lease, output: Path) -> Request:
        current = current_results(self._database, held.series_uid, held.work)
        predecessors = [(one.part, one.sr_class, str(self._places.results / one.path)) for one in current]
        work, where = held.work, (str(self._work(held)), str(output))
        return Request(*where, work.weights_sha256, work.config_digest, work.models, held.findings, predecessors)

    def _work(self, held: Lease) -> Path:
        return self._places.work / f"{held.job_id}-{held.token}"

    def _link(self, held: Lease, files: Sequence[Listed]) -> None:
        """Give the frozen list a folder of its own: what else arrives, or is purged, does not change it."""
        folder = self._work(held)
        folder.mkdir(mode=0o700)
        for number, file in enumerate(files):
            os.link(self._places.spool / file.path, folder / _name(number))

    def _results(self, held: Lease) -> Path:
        return self._places.results / f"{held.job_id}-{held.token}"

    def _make(self, output: Path) -> None:
        output.mkdir(mode=0o700)
        fsync_folder(self._places.results)
        passing("work.mkdir.after")


class _Prolonging:
    """Prolongs a lease whenever a third of it has passed; called again and again while the child works."""

    def __init__(self, database: Database, held: Lease, lease_s: float, check_stop: Callable[[], None]) -> None:
        self._database, self._held, self._lease_s, self._check_stop = database, held, lease_s, check_stop
        self._last = time.monotonic()

    def __call__(self) -> None:
        """Prolong it where it is time.

        Raises:
            LostLease: another worker has the job.
            Stopped: the listener ends.
        """
        self._check_stop()
        if time.monotonic() - self._last < self._lease_s / 3:
            return
        if not heartbeat(self._database, self._held, self._lease_s):
            raise LostLease
        self._last = time.monotonic()


def _broken(error: Exception) -> Ended:
    text = f"{type(error).__name__} inside ctvae; run again with --log-level DEBUG and report the traceback"
    return Ended("failed", "INTERNAL_ERROR", text)


def _name(number: int) -> str:
    return f"{number:06d}.dcm"


def _ended(answer: dict[str, Any], files: Sequence[Listed], folder: str) -> Ended:
    """Return how the job ended, from how its series and parts did."""
    outcomes = answer["outcomes"]
    by_name = {_name(number): file.instance_id for number, file in enumerate(files)}
    became = {one: Became(one, None, "skipped", _LEFT_OUT) for one in by_name.values()}
    for outcome in sorted(outcomes, key=lambda one: one["status"] == "written"):  # a file may be in several parts
        for name in outcome["files"]:
            instance_id = by_name[name]
            became[instance_id] = Became(instance_id, outcome["part"], outcome["status"], outcome["reason"])
    made = tuple(Made(**one | {"path": f"{folder}/{one['path']}"}) for one in answer["made"])
    about = made, tuple(became.values())
    for status in ("failed", "written", "rejected", "skipped"):
        for outcome in outcomes:
            if outcome["status"] == status:
                reason, message = outcome["reason"], outcome["message"]
                state: Any = {"failed": "failed", "written": "done"}.get(status, "refused")
                return Ended(state, reason, message, *about)
    return Ended("refused", "NO_CT", "no file of the series is a DICOM image", *about)


def sweep(database: Database, places: Places) -> None:
    """Remove what workers that were killed left behind: of leases that nobody holds, and that entered no result."""
    for folder in (places.work, places.results):
        for path in folder.iterdir():
            found = _FOLDER.fullmatch(path.name)
            if found and not _in_use(database, int(found[1]), int(found[2]), path.name):
                shutil.rmtree(path, ignore_errors=True)


def _in_use(database: Database, job_id: int, token: int, name: str) -> bool:
    held = select(job.c.id).where(job.c.id == job_id, job.c.token == token, job.c.state == "leased")
    entered = select(result.c.id).where(result.c.job_id == job_id, result.c.path.startswith(f"{name}/"))
    with database.read() as connection:
        return any(connection.execute(query.limit(1)).first() for query in (held, entered))
