"""Files appear whole or not at all, and several together or none."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from operators.errors import SeriesFailed
from operators.results.atomic import atomic_file, make_folder, write_together
from tests.support.syncs import syncs


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    """Let the rename to this name fail."""
    rename = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial") and Path(target).name == name and b"new" in self.read_bytes():
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)


@pytest.mark.parametrize("before", [{}, {"b": b"old b"}, {"a": b"old a", "b": b"old b", "c": b"theirs"}], ids=len)
@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("failing", ["a", "b"])
def test_where_a_rename_fails_everything_is_as_it_was(tmp_path, monkeypatch, before, failing, links):
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "not supported")))
    fail_at(monkeypatch, failing, OSError(5, "Input/output error"))

    with pytest.raises(SeriesFailed, match="OUTPUT_UNWRITABLE"):
        write_together({tmp_path / "a": b"new a", tmp_path / "b": b"new b"})

    assert files(tmp_path) == before


def test_an_interrupt_between_two_renames_undoes_the_first(tmp_path, monkeypatch):
    fail_at(monkeypatch, "b", KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        write_together({tmp_path / "a": b"new a", tmp_path / "b": b"new b"})

    assert files(tmp_path) == {}


def test_what_stood_there_is_replaced(tmp_path):
    (tmp_path / "a").write_bytes(b"old")

    write_together({tmp_path / "a": b"new a", tmp_path / "b": b"new b"})

    assert files(tmp_path) == {"a": b"new a", "b": b"new b"}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_the_mode_is_what_the_umask_allows_and_the_umask_is_never_touched(tmp_path, monkeypatch, umask, mode):
    before = os.umask(umask)
    try:
        monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask belongs to the whole process"))
        with atomic_file(tmp_path / "a") as file:
            file.write(b"x")
    finally:
        monkeypatch.undo()
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_the_names_of_a_folder_and_of_those_above_that_were_missing_are_on_the_disk(tmp_path, monkeypatch):
    synced = syncs(monkeypatch)
    make_folder(tmp_path / "a" / "b" / "c", 0o700)
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert stat.S_IMODE((tmp_path / "a" / "b" / "c").stat().st_mode) == 0o700
    make_folder(tmp_path / "a" / "b" / "c")
    assert synced[3:] == [tmp_path / "a" / "b"]  # whoever made it may have been killed before that
