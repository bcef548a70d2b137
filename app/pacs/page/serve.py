"""The site on a port, in a thread of the listener."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import uvicorn
from sqlalchemy import text

from app.pacs.database.engine import Database
from app.pacs.page.site import Check, make_site
from app.pacs.page_settings import PageSettings
from app.pacs.places import Places
from operators.errors import StartError

logger = logging.getLogger(__name__)

STOP_S: Final = 10.0
CONNECTIONS: Final = 64


@contextmanager
def page(
    settings: PageSettings,
    database: Database,
    places: Places,
    checks: Mapping[str, Check],
    on_retry: Callable[[], None] = lambda: None,
) -> Iterator[int | None]:
    """Serve the site until the block ends.

    Args:
        settings: where.
        database: of the queue.
        places: of the spool.
        checks: further ones for `/readyz`; the database is always checked.
        on_retry: called when something is to be done again.

    Yields:
        The port; None where there is no page.

    Raises:
        StartError: `PORT_UNUSABLE` or `TOKEN_UNREADABLE`.
    """
    if settings.port is None:
        yield None
        return
    hosts = [settings.address, "127.0.0.1", "localhost", *settings.hosts]
    checks = {"database": lambda: _answers(database), **checks}
    site = make_site(database, places, _token(settings.token_file), hosts, checks, on_retry)
    # h11 and asyncio whatever else is installed; no log of requests, and none of our signals.
    config = uvicorn.Config(
        site,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with _bound(settings.address, settings.port) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, name="listener-page", daemon=True)
        thread.start()
        port = int(bound.getsockname()[1])
        logger.info("status page on http://%s:%d/", settings.address, port)
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join(STOP_S)


def _answers(database: Database) -> bool:
    with database.read() as connection:
        return bool(connection.execute(text("SELECT 1")).scalar())


def _bound(address: str, port: int) -> socket.socket:
    try:
        return socket.create_server((address, port), backlog=CONNECTIONS)
    except OSError as error:
        told = f"cannot serve the page on {address}:{port} ({error.strerror}); see listener.page in the settings"
        raise StartError("PORT_UNUSABLE", told) from error


def _token(file: str | None) -> str | None:
    if file is None:
        return None
    try:
        found = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        told = f"cannot read listener.page.token_file ({type(error).__name__}); check path and permissions"
        raise StartError("TOKEN_UNREADABLE", told) from error
    if len(found) < 16:
        raise StartError("TOKEN_UNREADABLE", "listener.page.token_file: expected at least 16 characters")
    return found
