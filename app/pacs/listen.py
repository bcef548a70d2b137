"""The listener: receiver, completer, worker and senders put together; started, and stopped in order."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from pynetdicom import evt
from sqlalchemy import Connection

from app.output_lock import output_lock
from app.pacs import trail
from app.pacs.arrivals import reconcile
from app.pacs.child_process import child_program
from app.pacs.commitment import report_handler
from app.pacs.complete import Completer, Emit
from app.pacs.credentials import check_credentials, check_polling, query_tls
from app.pacs.database.engine import Database, open_database
from app.pacs.deliver import Deliverer
from app.pacs.destination import routes
from app.pacs.fetch import Pacs
from app.pacs.intake import Intake
from app.pacs.places import Places
from app.pacs.queue import end_leases, enqueue
from app.pacs.receive import Receiver, accepted_contexts, application_entity, receive_into, tls_context
from app.pacs.server import HardenedServer
from app.pacs.service import Service
from app.pacs.settings import MEGABYTE, ListenerSettings
from app.pacs.spool import Spool
from app.pacs.watch import Watcher
from app.pacs.watch_settings import WatchSettings
from app.pacs.work import Work, work_of
from app.pacs.worker import Worker
from app.process import starting
from app.settings import Settings, check_apart
from operators.errors import StartError

logger = logging.getLogger(__name__)

AFTER_A_KILL: Final = "KILLED_LISTENER: %s was killed; what it acknowledged is here, and its jobs are taken up again"
JOIN_S: Final = 30.0
ABANDONED_S: Final = 86_400.0
"""Where several listeners share a spool, a half arrived file this old is nobody's any more."""


class _Looping(Protocol):
    """A part of the listener with a thread of its own."""

    @property
    def service(self) -> Service: ...

    def run(self) -> None:
        """Work until the service is told to stop."""


@dataclass(frozen=True, slots=True)
class Running:
    """A listener that serves.

    Attributes:
        port: of DICOM; None where it is not served.
        database: of the queue.
        places: where what is kept.
        checks: name → whether this part works.
        intake: of what arrives.
        wake: has worker and senders look into the queue now.
    """

    port: int | None
    database: Database
    places: Places
    checks: Mapping[str, Callable[[], bool]]
    intake: Intake
    wake: Callable[[], None]


@contextmanager
def listener(
    settings: ListenerSettings, run: Settings, settings_file: Path | None = None, *, dicom: bool = True
) -> Iterator[Running]:
    """Serve for as long as the block runs; then nobody new is let in, and what is at work ends or is put back.

    Args:
        settings: of the listener.
        run: what is done to each series.
        settings_file: that these came from, for the worker's child; None for the usual one.
        dicom: whether peers are served; False where only a folder is watched.

    Raises:
        StartError: what is wrong with settings, bundle, folder, database, certificate or port.
    """
    places = Places(Path(settings.folder).resolve())
    watched = watched_folder(settings)
    _check_peers(settings)
    secured, works = tls_context(settings.tls), _works(settings, run)
    with ExitStack() as stack:
        with starting():
            places.make()
        database = stack.enter_context(_opened_database(settings, places))
        spool = _opened_spool(settings, places, database)
        intake = Intake(spool, database)
        receiver = Receiver(intake)
        senders = [Deliverer(database, places, one, settings.ae_title) for one in settings.destinations]

        def wake_senders() -> None:
            for sender in senders:
                sender.service.wake.set()

        to = routes(settings.destinations)
        program = child_program(settings.log.form)
        worker = Worker(
            database, places, settings.worker, to, on_done=wake_senders, settings_file=settings_file, program=program
        )
        completer = Completer(database, settings, emit_to(works), _pacs(settings, receiver), worker.service.wake.set)
        report = report_handler(database, wake_senders)
        server = _bound(settings, receiver, [(evt.EVT_N_EVENT_REPORT, report)], secured) if dicom else None
        checks = {"room in the spool": spool.has_room, "worker": lambda: worker.ready}
        if watched:
            checks["watched folder"] = watched.is_dir
        looping: list[_Looping] = [completer, worker, *senders, *_sources(settings.watch, watched, intake)]
        stack.callback(trail.activity, trail.APPLICATION_STOP, settings.ae_title)
        stack.enter_context(_logged_threads())
        stack.enter_context(_threads(looping))
        if server:
            stack.callback(server.stop)
            server.start()
            logger.info("listening as %s on %s:%d", settings.ae_title, settings.address, server.port)
        trail.activity(trail.APPLICATION_START, settings.ae_title)

        def wake() -> None:
            worker.service.wake.set()
            wake_senders()

        yield Running(server.port if server else None, database, places, checks, intake, wake)
        logger.info("stopping")


def _check_peers(settings: ListenerSettings) -> None:
    """Check that there are credentials for each destination, server and PACS, before anything is opened."""
    for destination in settings.destinations:
        check_credentials(destination)
    if settings.watch.url:
        check_polling(settings.watch)
    if settings.query.ae_title:
        query_tls(settings.query)


def _works(settings: ListenerSettings, run: Settings) -> Sequence[Work]:
    """Return what is done to each series: the bundle's work, and that of the bundle that runs in its shadow."""
    shadow = [work_of(run, Path(settings.shadow), "shadow")] if settings.shadow else []
    return [work_of(run), *shadow]


def _sources(watch: WatchSettings, folder: Path | None, intake: Intake) -> Iterator[_Looping]:
    """Yield what fetches series that no peer sends: from a folder, and from a server that is polled."""
    if folder:
        yield Watcher(intake, folder, watch)
        logger.info("watching a folder, every %g s", watch.poll_s)
    if watch.url:
        from app.pacs.poll import Poller  # what it imports is slow to load

        yield Poller(intake, watch)
        logger.info("asking %s, every %g s", urlsplit(watch.url).hostname, watch.ask_s)


def watched_folder(settings: ListenerSettings) -> Path | None:
    """Return the folder that is watched; it must be there, and apart from what the listener writes. None for none.

    Raises:
        StartError: `INPUT_MISSING`, `INPUT_NOT_A_FOLDER` or `INPUT_AND_OUTPUT_OVERLAP`.
    """
    if settings.watch.folder is None:
        return None
    folder = Path(settings.watch.folder).resolve()
    if not folder.is_dir():
        text = f"{folder} is no folder; give the one in which another program drops CT"
        raise StartError("INPUT_NOT_A_FOLDER" if folder.exists() else "INPUT_MISSING", text)
    for written in (settings.folder, *(one.path for one in settings.destinations if one.path)):
        check_apart(folder, Path(written))
    return folder


@contextmanager
def _opened_database(settings: ListenerSettings, places: Places) -> Iterator[Database]:
    """Open the queue; of one file, for one listener alone, which takes up what one that was killed had begun."""
    alone = settings.database is None  # with PostgreSQL several share the folder
    with output_lock(places.folder, AFTER_A_KILL) if alone else nullcontext():
        database = open_database(settings.database_url)
        try:
            if alone:
                end_leases(database)
            yield database
        finally:
            database.close()


def _opened_spool(settings: ListenerSettings, places: Places, database: Database) -> Spool:
    """Open the spool as the last listener left it, and make good what a kill interrupted."""
    spool = Spool(places.spool, settings.reserve_mb * MEGABYTE, settings.limits.max_object_mb * MEGABYTE)
    spool.sweep_at_start(older_than_s=0.0 if settings.database is None else ABANDONED_S)
    if missed := reconcile(database, spool):
        logger.warning("%d instances in the spool had no row in the database; they have one now", missed)
    receive_into(spool)
    return spool


def _pacs(settings: ListenerSettings, receiver: Receiver) -> Pacs | None:
    return Pacs(settings.query, settings.ae_title, receiver.store) if settings.query.ae_title else None


def emit_to(works: Sequence[Work]) -> Emit:
    """Return what puts a complete series into the queue: a job for each bundle."""

    def emit(connection: Connection, series_uid: str, instances: Sequence[int]) -> None:
        for work in works:
            enqueue(connection, series_uid, instances, work)

    return emit


def _bound(settings: ListenerSettings, receiver: Receiver, handlers: Sequence[Any], secured: Any) -> HardenedServer:
    try:
        return HardenedServer(
            application_entity(settings),
            (settings.address, settings.port),
            accepted_contexts(),
            limits=settings.limits,
            receiver=receiver,
            tls=secured,
            handlers=handlers,
            on_sweep=receiver.intake.spool.sweep,
            on_stranger=trail.Rejections().heard,
        )
    except OSError as error:
        text = f"cannot listen on {settings.address}:{settings.port} ({error.strerror}); give another address or port"
        raise StartError("PORT_UNUSABLE", text) from error


@contextmanager
def _logged_threads() -> Iterator[None]:
    """Log in one line what ends a thread: a peer's bytes can end the thread that serves it, and no other."""

    def log(ended: threading.ExceptHookArgs) -> None:
        name = ended.thread.name if ended.thread else "a thread"
        logger.error("%s ended with %s", name, ended.exc_type.__name__)
        logger.debug("%s", name, exc_info=ended.exc_value)

    before = threading.excepthook
    threading.excepthook = log
    try:
        yield
    finally:
        threading.excepthook = before


@contextmanager
def _threads(parts: Sequence[_Looping]) -> Iterator[None]:
    """Run each part in a thread of its own; at the end each is told to stop, and waited for."""
    runs = [part.run for part in parts]
    threads = [threading.Thread(target=run, name=f"listener-{run.__qualname__}", daemon=True) for run in runs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for part in parts:
            part.service.stop()
        for thread in threads:
            thread.join(JOIN_S)
            if thread.is_alive():
                logger.error("%s did not end in %g s", thread.name, JOIN_S)
