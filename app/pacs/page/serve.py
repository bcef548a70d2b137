"""The site on a port, in a thread of the listener."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import uvicorn
from sqlalchemy import text
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.pacs.credentials import read_token
from app.pacs.database.engine import Database
from app.pacs.intake import Intake
from app.pacs.page.inbound import stow_routes
from app.pacs.page.site import Check, make_site
from app.pacs.page_settings import PageSettings
from app.pacs.places import Places
from app.pacs.settings import Limits
from operators.errors import StartError

logger = logging.getLogger(__name__)

STOP_S: Final = 10.0
CONNECTIONS: Final = 64
REQUEST_S: Final = 5.0
"""Between the connection, or the last answer, and the end of a request's headers."""


class HastyProtocol(H11Protocol):
    """HTTP, without those who connect and do not ask: they would use up the connections that others need."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look whether a request comes."""
        super().connection_made(transport)
        self.loop.call_later(REQUEST_S, self._look, None)

    def _look(self, before: object) -> None:
        """Close a connection on which the request that was waited for at the last look is not there yet."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        idle = cycle is None or cycle.response_complete
        if idle and cycle is before:
            self.transport.close()
        else:
            self.loop.call_later(REQUEST_S, self._look, cycle)


@contextmanager
def page(
    settings: PageSettings,
    database: Database,
    places: Places,
    checks: Mapping[str, Check],
    on_retry: Callable[[], None] = lambda: None,
    intake: Intake | None = None,
    limits: Limits = Limits(),  # noqa: B008 — frozen
) -> Iterator[int | None]:
    """Serve the site until the block ends.

    Args:
        settings: where.
        database: of the queue.
        places: of the spool.
        checks: further ones for `/readyz`; the database is always checked.
        on_retry: called when something is to be done again.
        intake: of what comes by STOW-RS; None takes nothing.
        limits: of its senders.

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
    site = make_site(
        database, places, _token(settings.token_file), hosts, checks, on_retry, _stow(settings, intake, limits)
    )
    # h11 and asyncio whatever else is installed; no log of requests, and none of our signals.
    config = uvicorn.Config(
        site,
        loop="asyncio",
        http=HastyProtocol,
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


def _stow(settings: PageSettings, intake: Intake | None, limits: Limits) -> Sequence[Route]:
    token = _token(settings.stow_token_file)
    return () if token is None or intake is None else stow_routes(intake, token, limits)


def _answers(database: Database) -> bool:
    with database.read() as connection:
        return bool(connection.execute(text("SELECT 1")).scalar())


def _bound(address: str, port: int) -> socket.socket:
    try:
        return socket.create_server((address, port), backlog=CONNECTIONS)
    except OSError as error:
        message = f"cannot serve the page on {address}:{port} ({error.strerror}); see listener.page in the settings"
        raise StartError("PORT_UNUSABLE", message) from error


def _token(file: str | None) -> str | None:
    found = read_token(file, "a token file of listener.page")
    if found is not None and len(found) < 16:
        raise StartError("TOKEN_UNREADABLE", "a token file of listener.page: expected at least 16 characters")
    return found
