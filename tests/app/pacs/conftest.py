"""What the tests of the PACS room share: a database of each kind, a listener, and what is sent to it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.pacs.database.engine import Database, open_database
from tests.support.listeners import Listener, listener
from tests.support.postgres import emptied, postgres
from tests.support.tiny_ct import stored_values, write_tiny_ct
from tests.support.tls import make_certificates
from tests.support.watched_tls import Use, watched


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server of this session."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of PEM files: an authority, and what it signed for a listener and for a client."""
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
def tls_uses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Use]]:
    """The use of each TLS connection of a test; no two threads may share one, whatever the test is about."""
    uses: list[Use] = []
    monkeypatch.setattr(ssl.SSLContext, "sslsocket_class", watched(uses))
    yield uses
    assert [wrong for use in uses for wrong in use.wrong] == []


@pytest.fixture
def no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody know the name pacs.invalid, without asking the network."""
    resolve = socket.getaddrinfo

    def unless_unknown(host: str | bytes | None, *about: Any, **more: Any) -> Any:
        if host in ("pacs.invalid", b"pacs.invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *about, **more)

    monkeypatch.setattr(socket, "getaddrinfo", unless_unknown)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database: SQLite, then PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/queue.db"
    return emptied(request.getfixturevalue("postgres_server"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database, of both kinds one after the other."""
    opened = open_database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    """An open database, SQLite alone, for what does not depend on the kind."""
    opened = open_database(f"sqlite:///{tmp_path}/queue.db")
    yield opened
    opened.close()


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port where nobody listens; the system gives it to nobody else, and a server of the test may take it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Listener]:
    """A listener in this process."""
    with listener(tmp_path) as listening:
        yield listening


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three slices of a tiny CT."""
    return write_tiny_ct(tmp_path_factory.mktemp("slices"), stored_values(3))
