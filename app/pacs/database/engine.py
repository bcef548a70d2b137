"""A URL → the database, opened and up to date: SQLite, one file, or PostgreSQL."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, InterfaceError, OperationalError, TimeoutError

from app.pacs.database.migrate import migrate
from app.pacs.database.prepared import Driver, driving
from operators.errors import StartError

BUSY_MS: Final = 30_000
CONNECTIONS: Final = 40
AWAY: Final = (OperationalError, InterfaceError, TimeoutError)
"""What says that the database cannot be used now; any other of its errors is about what was asked."""

_IMMEDIATE: Final = "BEGIN IMMEDIATE"
_PRAGMAS: Final = (f"busy_timeout={BUSY_MS}", "synchronous=FULL", "foreign_keys=ON")
_NAP_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Database:
    """An open database; may be used from several threads.

    Attributes:
        writing: its transactions lock from their begin on, so that what they read stays true until they write.
        reading: does not wait for writers.
    """

    writing: Engine
    reading: Engine

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Open a transaction that may write; committed at the end of the block, rolled back by an error."""
        with self.writing.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that only reads."""
        with self.reading.connect() as connection:
            yield connection

    def driving(self) -> AbstractContextManager[Driver]:
        """Open a transaction that may write, for prepared statements; otherwise as `begin`."""
        return driving(self.writing, _IMMEDIATE if self.writing.dialect.name == "sqlite" else None)

    def driving_reads(self) -> AbstractContextManager[Driver]:
        """Open a transaction that only reads, for one prepared statement."""
        return driving(self.reading, None)

    def close(self) -> None:
        """Close all connections."""
        self.writing.dispose()
        self.reading.dispose()


def open_database(url: str) -> Database:
    """Open a database, create its tables where it is new, and bring it up to date where it is older.

    Args:
        url: `sqlite:////var/lib/ctvae/queue.db` (three slashes and a path) or `postgresql://user@host/name`.

    Raises:
        StartError: `DATABASE_INVALID` for a wrong URL, `DATABASE_UNREACHABLE`, or `DATABASE_NEWER`.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        _make_folder(Path(parsed.database or "").parent)
        writing, reading = _sqlite(parsed, _IMMEDIATE), _sqlite(parsed, "BEGIN")
    else:
        writing = reading = create_engine(
            parsed, pool_size=CONNECTIONS // 4, max_overflow=CONNECTIONS, pool_pre_ping=True
        )
    try:
        migrate(writing)
    except DatabaseError as error:
        shown = parsed.render_as_string(hide_password=True)
        text = f"cannot open {shown} ({type(error.orig).__name__}); check the path, the rights and that the server runs"
        raise StartError("DATABASE_UNREACHABLE", text) from error
    return Database(writing, reading)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise _invalid("found text that is no URL") from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise _invalid(f"found {parsed.get_backend_name()}")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise _invalid("found an SQLite database in memory, which a restart would lose")
    return parsed


def _invalid(found: str) -> StartError:
    text = f"database: {found}; expected sqlite:///FILE or postgresql://USER@HOST/NAME"
    return StartError("DATABASE_INVALID", text)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        text = f"cannot make the folder of the database, {folder} ({error.strerror}); check the path and the rights"
        raise StartError("DATABASE_UNREACHABLE", text) from error


def _sqlite(url: URL, begin: str) -> Engine:
    """Open SQLite as a queue needs it: WAL, each commit on the disk, and transactions that we begin ourselves."""
    engine = create_engine(url, pool_size=CONNECTIONS // 4, max_overflow=CONNECTIONS)

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: object) -> None:
        connection.isolation_level = None
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        _go_to_wal(connection)

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _go_to_wal(connection: sqlite3.Connection) -> None:
    """Turn to WAL, waiting for others that open the same new file: SQLite's own time-out does not count here.

    Going to WAL turns a lock to read into one to write, and SQLite refuses that at once rather than risk a deadlock.
    """
    end = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(_NAP_S)
