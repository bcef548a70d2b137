"""The schema has a version; an older database is copied, then brought forward, when it is opened."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, Inspector, inspect, text

from app.pacs.database.tables import metadata, schema_version, watched
from operators.errors import StartError

logger = logging.getLogger(__name__)

VERSION: Final = 2
Step = Callable[[Connection], None]
# From a version → the next: the statements that bring it there.
STEPS: Final[Mapping[int, Step]] = {1: watched.create}
_LOCK: Final = 0x63747661  # any number; the same in every ctvae


def migrate(engine: Engine, version: int = VERSION, steps: Mapping[int, Step] = STEPS) -> None:
    """Create the tables of a new database; copy an older one and bring it forward; all in one transaction.

    Raises:
        StartError: `DATABASE_NEWER`.
    """
    copy = None
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # two that start at once would both create; SQLite's begin locks
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        found = found_version(connection)
        if found is None:
            metadata.create_all(connection)
            connection.execute(schema_version.insert().values(version=version))
        elif found > version:
            newer = f"the database has schema {found}, this ctvae knows {version}; start the newer ctvae that made it, "
            raise StartError("DATABASE_NEWER", newer + "or restore the copy from before the upgrade")
        elif found < version:
            copy = _copied_file(engine, found) if engine.dialect.name == "sqlite" else _copied_tables(connection, found)
            for step in range(found, version):
                steps[step](connection)
                connection.execute(schema_version.update().values(version=step + 1))
    if copy:
        logger.warning("the database went from schema %s to %d; the old one is kept as %s", found, version, copy)


def found_version(connection: Connection) -> int | None:
    """Return the version of the schema of this database; None where it is empty."""
    tables: Inspector = inspect(connection)
    if not tables.has_table(schema_version.name):
        return None
    return int(connection.execute(schema_version.select()).scalar_one())


def _copied_file(engine: Engine, version: int) -> str:
    """Copy an SQLite database beside itself, as last committed; its name says which version it holds."""
    name = f"{engine.url.database}.schema{version}.{datetime.now(UTC):%Y%m%dT%H%M%S}"
    # A connection of its own: VACUUM is allowed outside a transaction only. It reads; the caller's holds the lock.
    with closing(engine.raw_connection()) as connection:
        connection.cursor().execute("VACUUM INTO ?", (name,))
    with Path(name).open("rb") as file:
        os.fsync(file.fileno())
    return name


def _copied_tables(connection: Connection, version: int) -> str:
    """Copy the tables of a PostgreSQL database into a schema of their own."""
    name = f"ctvae_schema{version}_{datetime.now(UTC):%Y%m%dT%H%M%S}"
    tables = inspect(connection).get_table_names()
    connection.exec_driver_sql(f'CREATE SCHEMA "{name}"')
    for table in tables:
        connection.exec_driver_sql(f'CREATE TABLE "{name}"."{table}" AS TABLE "{table}"')
    return name
