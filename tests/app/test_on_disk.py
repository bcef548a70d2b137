"""Notes on the disk: what was entered comes back, and a full disk is one line."""

from __future__ import annotations

import gc
import sqlite3
import threading

import pytest

from app import on_disk
from app.on_disk import DiskList, DiskMap
from operators.errors import CtvaeError


def test_a_map_keeps_the_first_value_of_a_key():
    notes: DiskMap[str] = DiskMap()
    assert notes.enter(b"a", "first") is None
    assert notes.enter(b"a", "second") == "first"
    assert (notes.get(b"a"), notes.get(b"b")) == ("first", None)


def test_a_list_is_read_sorted_and_knows_its_names():
    notes = DiskList()
    notes.extend([(b"b", "2"), (b"\xff", "3"), (b"a", "1")])
    assert list(notes) == [(b"a", "1"), (b"b", "2"), (b"\xff", "3")]
    assert b"b" in notes and b"c" not in notes


@pytest.mark.parametrize("full", [DiskMap, DiskList])
def test_a_full_temporary_folder_is_one_line_that_says_what_to_do(full, monkeypatch):
    monkeypatch.setattr(on_disk, "_SETTINGS", (*on_disk._SETTINGS, "max_page_count = 4"))
    notes = full()
    many = [(str(number).encode() * 500, "") for number in range(100)]
    with pytest.raises(CtvaeError, match=r"INPUT_OUTPUT_ERROR: .*disk is full.*TMPDIR"):
        notes.extend(many) if full is DiskList else [notes.enter(*one) for one in many]


@pytest.fixture
def opened(monkeypatch) -> list[sqlite3.Connection]:
    """Every connection that is opened while the test runs."""
    connections, connect = [], sqlite3.connect

    def noted(*about, **more):
        connections.append(connect(*about, **more))
        return connections[-1]

    monkeypatch.setattr(sqlite3, "connect", noted)
    return connections


def is_closed(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError as error:
        return "closed database" in str(error)
    return False


@pytest.mark.parametrize("made", [DiskMap, DiskList])
def test_the_temporary_file_is_closed_with_its_map_or_list(made, opened):
    notes = made()
    assert not is_closed(opened[0])
    del notes
    assert is_closed(opened[0])


def test_a_list_that_is_being_read_is_closed_when_its_reader_stops(opened):
    notes = DiskList()
    notes.extend([(b"a", "1"), (b"b", "2")])
    reading = iter(notes)
    del notes
    assert next(reading) == (b"a", "1") and not is_closed(opened[0])
    reading.close()
    del reading
    assert is_closed(opened[0])


def test_the_temporary_file_is_closed_where_it_could_not_be_set_up(monkeypatch, opened):
    monkeypatch.setattr(on_disk, "_SETTINGS", ("journal_mode = OFF; this is no SQL",))
    with pytest.raises(CtvaeError, match="INPUT_OUTPUT_ERROR"):
        DiskMap()
    gc.collect()
    assert is_closed(opened[0])


def test_another_thread_may_collect_what_refers_to_itself(opened):
    notes = DiskMap()
    notes.itself = notes
    del notes
    collector = threading.Thread(target=gc.collect)
    collector.start()
    collector.join()
    assert is_closed(opened[0])
