"""A ZIP archive is read as the folder that it holds, or refused as a whole; and nothing of it stays behind."""

from __future__ import annotations

import json
import stat
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app import encode
from app.__main__ import main
from app.cli import main as ctvae
from operators.errors import StartError
from operators.input import archives as unpack
from operators.input.archives import unpacked
from operators.read_study import read_studies
from operators.synthetic.write_ct import affine_for, write_ct_series

Change = Callable[[zipfile.ZipFile], None]


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory, monkeypatch) -> Path:
    """Where archives are unpacked; whatever the test does, it has to be empty afterwards."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


def made_ct(folder: Path, seed: int = 0) -> list[Path]:
    hu = np.random.default_rng(seed).integers(-1000, 2000, (6, 8, 8)).astype(np.int16)
    return write_ct_series(hu, affine_for(hu.shape, (5.0, 2.0, 2.0)), folder)


def packed(path: Path, files: list[Path], change: Change = lambda archive: None, method: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in files:
            archive.write(file, f"DICOM/{file.name}")
        change(archive)
    return path


def inspected(source: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    capsys.readouterr()
    ctvae(["inspect", str(source), "--json"])
    lines = json.loads(capsys.readouterr().out)["series"]
    return {line["folder"]: line["reason"] or line["status"] for line in lines}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_in_the_input_is_a_folder(tmp_path, capsys, method):
    packed(tmp_path / "in" / "sub" / "study.ZIP", made_ct(tmp_path / "ct"), method=method)

    assert inspected(tmp_path / "in", capsys) == {"sub/study.ZIP/DICOM": "eligible"}


def test_an_archive_as_the_input_gives_the_bytes_of_the_folder(phantom_ct, tmp_path):
    packed(tmp_path / "study.zip", sorted(phantom_ct.iterdir()))

    for source, output in ((phantom_ct, "folder"), (tmp_path / "study.zip", "archive")):
        assert ctvae(["encode", str(source), "-o", str(tmp_path / output)]) == 0

    folder, archive = (
        {path.name: path.read_bytes() for path in (tmp_path / output).glob("*/features.*")}
        for output in ("folder", "archive")
    )
    assert len(folder) == 2 and folder == archive


def test_the_graph_reads_archives_too(phantom_ct, tmp_path):
    packed(tmp_path / "study.zip", sorted(phantom_ct.iterdir()))

    assert main(["-i", str(tmp_path / "study.zip"), "-o", str(tmp_path / "out"), "-l", "ERROR"]) == 0
    assert len(list((tmp_path / "out").glob("*/features.json"))) == 1


def test_a_series_that_is_half_in_an_archive_is_one_series(tmp_path):
    files = made_ct(tmp_path / "in")
    packed(tmp_path / "in" / "rest.zip", files[3:])
    for file in files[3:]:
        file.unlink()

    with unpacked(tmp_path / "in") as archives:
        ((series,),) = (study.series for study in read_studies(tmp_path / "in", archives=archives).studies)

    assert len(series.instances) == 6


def test_archives_are_not_counted_as_other_files(tmp_path):
    packed(tmp_path / "in" / "study.zip", made_ct(tmp_path / "ct"))
    (tmp_path / "in" / "notes.txt").write_text("text")

    with unpacked(tmp_path / "in") as archives:
        reading = read_studies(tmp_path / "in", archives=archives)

    assert (reading.files, reading.not_dicom) == (7, 1)


def link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(entry, "/etc/passwd")


def bomb(archive: zipfile.ZipFile) -> None:
    archive.writestr("zeros", bytes(70 << 20))


def add(name: str, data: bytes = b"x") -> Change:
    return lambda archive: archive.writestr(name, data)


def twice(archive: zipfile.ZipFile) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")


def file_and_folder(archive: zipfile.ZipFile) -> None:
    archive.writestr("a", b"1")
    archive.writestr("a/b", b"2")


UNSAFE = {
    "parent": add("../evil"),
    "parent_inside": add("a/../../evil"),
    "absolute": add("/tmp/evil"),
    "drive": add("C:/evil"),
    "backslash": add("..\\evil"),
    "link": link,
    "bomb": bomb,
    "nested": add("more/inner.ZIP"),
    "nested_tar": add("inner.tar.gz"),
    "twice": twice,
    "file_and_folder": file_and_folder,
    "long": add("a" * 2000),
}


@pytest.mark.parametrize("fault", sorted(UNSAFE))
def test_an_unsafe_archive_is_refused_as_a_whole_and_the_rest_goes_on(tmp_path, capsys, fault):
    packed(tmp_path / "in" / "bad.zip", made_ct(tmp_path / "ct"), UNSAFE[fault])
    made_ct(tmp_path / "in" / "good", seed=1)

    assert inspected(tmp_path / "in", capsys) == {"bad.zip": "UNSAFE_ARCHIVE", "good": "eligible"}
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize(("limit", "value"), [("MAX_ENTRIES", 5), ("MAX_BYTES", 5000)])
def test_what_is_beyond_a_limit_is_refused(tmp_path, capsys, monkeypatch, limit, value):
    packed(tmp_path / "in" / "big.zip", made_ct(tmp_path / "ct"))
    monkeypatch.setattr(unpack, limit, value)

    assert inspected(tmp_path / "in", capsys) == {"big.zip": "UNSAFE_ARCHIVE"}


def test_the_limit_of_bytes_is_for_all_archives_together(tmp_path, capsys, monkeypatch):
    files = made_ct(tmp_path / "ct")
    for name in ("a.zip", "b.zip"):
        packed(tmp_path / "in" / name, files[:4] if name == "a.zip" else files[4:])
    monkeypatch.setattr(unpack, "MAX_BYTES", sum(file.stat().st_size for file in files) - 1)

    ended = inspected(tmp_path / "in", capsys)

    assert ended["b.zip"] == "UNSAFE_ARCHIVE" and "a.zip/DICOM" in ended


def encrypted(data: bytes) -> bytes:
    """Bit 0 of the general purpose flags, in the local headers and in the directory."""
    for signature, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = data.index(signature)
        (flags,) = struct.unpack_from("<H", data, start + place)
        data = data[: start + place] + struct.pack("<H", flags | 1) + data[start + place + 2 :]
    return data


def another_method(data: bytes) -> bytes:
    start = data.index(b"PK\1\2")
    return data[: start + 10] + struct.pack("<H", 14) + data[start + 12 :]  # LZMA, whose dictionary may be 4 GB


def damaged(data: bytes) -> bytes:
    """One bit of what is packed, which its CRC tells."""
    return data[:200] + bytes([data[200] ^ 1]) + data[201:]


@pytest.mark.parametrize(
    "change",
    [encrypted, another_method, damaged, lambda data: data[: len(data) // 2], lambda _: b"this is text", lambda _: b""],
    ids=["encrypted", "method", "damaged", "cut_off", "text", "empty"],
)
def test_an_archive_that_cannot_be_unpacked_is_one_line(tmp_path, capsys, change):
    path = packed(tmp_path / "in" / "bad.zip", made_ct(tmp_path / "ct"), method=0)
    path.write_bytes(change(path.read_bytes()))
    made_ct(tmp_path / "in" / "good", seed=1)

    assert inspected(tmp_path / "in", capsys) == {"bad.zip": "UNREADABLE_FILE", "good": "eligible"}


def test_an_archive_that_is_refused_names_no_path(tmp_path, caplog):
    packed(tmp_path / "in" / "SECRET.zip", made_ct(tmp_path / "ct"), add("../SECRET"))

    code = ctvae(["encode", str(tmp_path / "in"), "-o", str(tmp_path / "out")])

    assert code == 2
    assert "SECRET" not in caplog.text
    (line,) = json.loads((tmp_path / "out" / "outcome.json").read_text())["series"]
    assert line["series_instance_uid"].startswith("2.25.") and "SECRET" not in line["message"]


def test_the_folder_is_private_and_gone_after_an_error(tmp_path, temporary):
    packed(tmp_path / "study.zip", made_ct(tmp_path / "ct"))

    with pytest.raises(RuntimeError, match="on the way"), unpacked(tmp_path / "study.zip") as (archive,):
        assert stat.S_IMODE(archive.folder.parent.stat().st_mode) == 0o700
        assert len(list(archive.folder.rglob("*.dcm"))) == 6
        raise RuntimeError("on the way")

    assert not list(temporary.iterdir())


def test_the_python_function_cleans_up_when_it_is_left_early(phantom_ct, tmp_path, temporary):
    packed(tmp_path / "study.zip", sorted(phantom_ct.iterdir()))
    records = encode(tmp_path / "study.zip")
    next(records)
    assert list(temporary.iterdir())

    records.close()

    assert not list(temporary.iterdir())


def test_archives_in_linked_folders_are_not_met(tmp_path):
    packed(tmp_path / "elsewhere" / "study.zip", made_ct(tmp_path / "ct"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "link.zip").symlink_to(tmp_path / "elsewhere" / "study.zip")

    with unpacked(tmp_path / "in") as archives:
        assert archives == ()


def test_another_file_is_still_no_input(tmp_path):
    (tmp_path / "notes.txt").write_text("text")

    with pytest.raises(StartError, match="INPUT_NOT_A_FOLDER"):
        next(encode(tmp_path / "notes.txt"))
