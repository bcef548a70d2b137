"""The entries of a folder: the same from memory and from the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app import folder_listing
from app.folder_listing import FILE, FOLDER, LINK, OTHER, Listing


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("b", "a", "ü"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"")
    (tmp_path / "z").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "z")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize("held", [1, 3, 7, 100])
def test_names_come_sorted_with_their_kinds_however_many_are_held_in_memory(folder, held, monkeypatch):
    monkeypatch.setattr(folder_listing, "HELD", held)
    listing = Listing(folder)
    kinds = {
        "a": FILE,
        "b": FILE,
        "link": LINK,
        os.fsdecode(b"not-utf8-\xff"): FILE,
        "pipe": OTHER,
        "z": FOLDER,
        "ü": FILE,
    }
    assert list(listing) == list(kinds.items())
    assert list(listing) == list(kinds.items()), "it can be read twice"
    assert "link" in listing and "c" not in listing


def test_a_folder_that_is_not_there_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        Listing(tmp_path / "nothing")
