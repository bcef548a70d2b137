"""Rows of what arrived, by statements that go straight to the driver, on SQLite and on PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from app.pacs.arrivals import Identity, Origin, is_known, record
from app.pacs.database.prepared import Prepared
from app.pacs.database.tables import instance, now, series
from app.pacs.spool import Kept

WHO = Identity("1.2", "1.2.3", "1.2.3.4", "1.2.840.10008.5.1.4.1.1.2")
CT1, PACS = Origin("CT1", "10.0.0.7"), Origin("PACS", "10.0.0.8", fetched=True)


def arrived(database, origin, sop_uid=WHO.sop_uid):
    """Record an instance."""
    kept = Kept(f"instances/1.2.3/{sop_uid}.dcm", "1.2.3", sop_uid, 0)
    return record(database, kept, replace(WHO, sop_uid=sop_uid), "digest", 7, origin)


def rows(database, table):
    with database.read() as connection:
        return connection.execute(select(table).order_by(table.c.id)).all()


def complete(database):
    with database.begin() as connection:
        connection.execute(update(series).values(state="ended", attempts=3, reason="AWAY", first_at=1.0, last_at=1.0))


def test_each_instance_has_a_row_and_the_first_one_that_of_its_series(database):
    assert arrived(database, CT1)
    assert arrived(database, Origin(), "1.2.3.5")
    assert not arrived(database, CT1)
    first, second = rows(database, instance)
    assert (first.sop_class_uid, first.size_bytes, first.state, first.reason) == (WHO.sop_class_uid, 7, "kept", None)
    assert (first.calling_ae, first.sender, second.calling_ae) == ("CT1", "10.0.0.7", "")
    (row,) = rows(database, series)
    assert (row.source_ae, row.state, row.revision, row.findings, row.attempts) == ("CT1", "arriving", 0, "[]", 0)
    assert row.first_at <= row.last_at and abs(row.first_at - first.received_at) < 60


def test_a_complete_series_arrives_anew_with_an_instance_more(database):
    arrived(database, Origin("CT0", "10.0.0.6"))
    for number, (origin, source) in enumerate([(Origin(), "CT0"), (CT1, "CT1"), (PACS, "PACS")]):
        complete(database)
        arrived(database, origin, f"1.2.3.5.{number}")
        (row,) = rows(database, series)
        assert (row.state, row.attempts, row.reason, row.source_ae) == ("arriving", 0, None, source)
        assert row.first_at > 1 and row.last_at > 1


def test_what_was_fetched_is_no_sender_of_a_series_that_is_arriving(database):
    arrived(database, CT1)
    before = rows(database, series)
    arrived(database, PACS, "1.2.3.5")
    assert rows(database, series) == before


def test_what_was_purged_is_known_by_its_bytes(database):
    arrived(database, CT1)
    assert is_known(database, Path("x"), WHO, "digest") == (False, frozenset())
    with database.begin() as connection:
        connection.execute(update(instance).values(state="purged"))
    assert is_known(database, Path("x"), WHO, "digest") == (True, frozenset())
    assert is_known(database, Path("x"), WHO, "other") == (False, frozenset({0}))


def test_an_error_of_the_driver_is_one_of_sqlalchemy_and_undoes_the_transaction(database):
    added = Prepared(
        insert(series).values(first_at=now(), last_at=now()), "series_uid", "study_uid", "source_ae", "sender"
    )
    values = {"series_uid": "1.2.3", "study_uid": "1.2", "source_ae": "", "sender": ""}
    with pytest.raises(IntegrityError), database.driving() as driver:
        driver.run(added, values | {"series_uid": "1.2.4"})
        driver.run(added, values)
        driver.run(added, values)
    assert rows(database, series) == []
    with pytest.raises(ZeroDivisionError), database.driving() as driver:
        driver.run(added, values)
        raise ZeroDivisionError
    assert rows(database, series) == []
