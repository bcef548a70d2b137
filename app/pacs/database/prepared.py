"""Statements that go straight to the database's driver, for what each instance that arrives needs.

To hand over a statement takes SQLAlchemy longer than it takes SQLite to execute it. Everything else uses SQLAlchemy's
connections.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy import Dialect, Engine, Insert, Select, Update
from sqlalchemy.exc import DBAPIError


class Prepared:
    """A statement that is put together once; its values are texts, numbers and None, which drivers take as they are."""

    def __init__(self, statement: Select[Any] | Insert | Update, *columns: str) -> None:
        """Take a statement.

        Args:
            statement: with named parameters.
            columns: of an insert, those that are given.
        """
        self.statement, self._columns = statement, list(columns) or None
        self._compiled = dict[str, tuple[str, dict[str, Any], Sequence[str] | None]]()

    def on(self, dialect: Dialect, values: Mapping[str, Any]) -> tuple[str, Sequence[Any] | Mapping[str, Any]]:
        """Return text and parameters for a driver."""
        if dialect.name not in self._compiled:
            compiled: Any = self.statement.compile(dialect=dialect, column_keys=self._columns)
            defaults = {column.key: column.default.arg for column in compiled.insert_prefetch}
            self._compiled[dialect.name] = str(compiled), compiled.params | defaults, compiled.positiontup
        text, constants, order = self._compiled[dialect.name]
        given = {**constants, **values}
        return text, given if order is None else [given[name] for name in order]


class Driver:
    """A transaction on the driver's own connection."""

    def __init__(self, cursor: Any, dialect: Dialect) -> None:
        self._cursor, self._dialect = cursor, dialect

    def run(self, prepared: Prepared, values: Mapping[str, Any]) -> Any:
        """Run a statement.

        Returns:
            The driver's cursor, for its rows and their number.
        """
        self._cursor.execute(*prepared.on(self._dialect, values))
        return self._cursor


@contextmanager
def driving(engine: Engine, begin: str | None) -> Iterator[Driver]:
    """Open a transaction; committed at the end of the block, rolled back by an error.

    Args:
        engine: whose pool has the connection.
        begin: statement that begins it; None where the driver begins it, or where each statement is one.

    Raises:
        DBAPIError: the driver's error as SQLAlchemy's of the same kind.
    """
    errors: Any = engine.dialect.loaded_dbapi
    try:
        with closing(engine.raw_connection()) as connection:  # back to the pool, which rolls back
            cursor = connection.cursor()
            if begin:
                cursor.execute(begin)
            yield Driver(cursor, engine.dialect)
            connection.commit()
    except errors.Error as error:
        raise DBAPIError.instance(None, None, error, errors.Error, dialect=engine.dialect) from error
