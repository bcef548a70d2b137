"""A new database is created, an older one copied and brought forward, a newer one refused."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Connection, inspect, text

from app.pacs.database import engine
from app.pacs.database.engine import Database, open_database
from app.pacs.database.migrate import STEPS, VERSION, found_version, migrate
from app.pacs.database.tables import metadata, series
from operators.errors import StartError
from tests.support.clocks import Clock
from tests.support.postgres import emptied


def add_column(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE series ADD COLUMN extra VARCHAR DEFAULT 'new'"))


def put_series(database: Database, uid: str) -> None:
    about = {"study_uid": "1.2", "first_at": 1.0, "last_at": 1.0, "source_ae": "MODALITY", "sender": "127.0.0.1"}
    with database.begin() as connection:
        connection.execute(series.insert().values(series_uid=uid, **about))


def test_there_is_a_step_from_each_version_to_the_next():
    assert sorted(STEPS) == list(range(1, VERSION))


def test_a_new_database_has_every_table_and_the_version(database):
    with database.read() as connection:
        assert set(metadata.tables) <= set(inspect(connection).get_table_names())
        assert found_version(connection) == VERSION


def test_an_older_database_is_brought_forward_and_keeps_its_rows(database):
    put_series(database, "1.2.3")
    migrate(database.writing, VERSION + 1, {VERSION: add_column})
    with database.read() as connection:
        assert connection.execute(text("SELECT series_uid, extra FROM series")).all() == [("1.2.3", "new")]
        assert found_version(connection) == VERSION + 1


def test_the_copy_of_an_older_sqlite_database_opens_as_that_version(sqlite, tmp_path):
    put_series(sqlite, "1.2.3")
    migrate(sqlite.writing, VERSION + 1, {VERSION: add_column})
    (copy,) = tmp_path.glob(f"queue.db.schema{VERSION}.*")
    old = open_database(f"sqlite:///{copy}")
    with old.read() as connection:
        assert connection.execute(text("SELECT series_uid FROM series")).scalars().all() == ["1.2.3"]
    old.close()


def test_a_postgresql_database_keeps_copies_of_its_tables(postgres_server):
    database = open_database(emptied(postgres_server))
    put_series(database, "1.2.3")
    migrate(database.writing, VERSION + 1, {VERSION: add_column})
    with database.read() as connection:
        (schema,) = [name for name in inspect(connection).get_schema_names() if name.startswith("ctvae_schema")]
        assert connection.execute(text(f'SELECT series_uid FROM "{schema}".series')).scalars().all() == ["1.2.3"]
    database.close()


def test_a_step_that_fails_leaves_the_older_database_as_it_was(database):
    def fail(connection: Connection) -> None:
        add_column(connection)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        migrate(database.writing, VERSION + 1, {VERSION: fail})
    with database.read() as connection:
        assert found_version(connection) == VERSION
        assert "extra" not in {column["name"] for column in inspect(connection).get_columns("series")}


def test_a_newer_database_is_refused_with_what_to_do(sqlite):
    migrate(sqlite.writing, VERSION + 1, {VERSION: add_column})
    with pytest.raises(StartError, match=r"DATABASE_NEWER: .*start the newer ctvae"):
        migrate(sqlite.writing)


def test_two_that_open_a_new_database_at_once_both_find_it_whole(database_url):
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(open_database, [database_url] * 4))
    for database in opened:
        with database.read() as connection:
            assert found_version(connection) == VERSION
        database.close()


def test_who_opens_a_new_sqlite_file_that_another_is_creating_waits_for_it(tmp_path: Path, monkeypatch):
    file = tmp_path / "queue.db"
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            other.execute("COMMIT")

    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=Clock(), sleep=nap))
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # what the other holds while it turns the new file to WAL
        database = open_database(f"sqlite:///{file}")
    assert len(naps) == 3
    with database.read() as connection:
        assert found_version(connection) == VERSION
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
    database.close()


def test_who_waits_for_a_new_sqlite_file_in_vain_says_so(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=Clock(step_s=10.0), sleep=lambda seconds: None))
    with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StartError, match="DATABASE_UNREACHABLE"):
            open_database(f"sqlite:///{tmp_path}/queue.db")


def test_two_that_open_an_older_database_at_once_bring_it_forward_once(database):
    put_series(database, "1.2.3")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: migrate(database.writing, VERSION + 1, {VERSION: add_column}), range(4)))
    with database.read() as connection:
        assert connection.execute(text("SELECT series_uid, extra FROM series")).all() == [("1.2.3", "new")]
        assert found_version(connection) == VERSION + 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://host/db", "found mysql; expected sqlite:///FILE"),
        ("queue.db", "found text that is no URL"),
        ("sqlite://", "in memory, which a restart would lose"),
    ],
)
def test_a_url_that_cannot_hold_a_queue_is_refused(url, said):
    with pytest.raises(StartError, match=said):
        open_database(url)


def test_a_server_that_is_not_there_is_named_without_its_password():
    with pytest.raises(StartError, match="DATABASE_UNREACHABLE") as caught:
        open_database("postgresql://me:secret@127.0.0.1:1/db")
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_or_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("other " * 1000)
    with pytest.raises(StartError, match=r"DATABASE_UNREACHABLE: .*/file"):
        open_database(f"sqlite:///{tmp_path}/file")
    with pytest.raises(StartError, match=r"DATABASE_UNREACHABLE: .*folder.*/file"):
        open_database(f"sqlite:///{tmp_path}/file/queue.db")
