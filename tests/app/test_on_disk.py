"""Notes on the disk: what was entered comes back, and a full disk is one line."""

from __future__ import annotations

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
