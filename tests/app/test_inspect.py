"""`ctvae inspect`: one line per series, and the verdict of `encode`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from app.cli import main as ctvae
from tests.support.tiny_ct import put, write_tiny_ct


def write_many(folder: Path, series: int) -> Path:
    """Series in folders of two, each study with a folder; the last of them lacks a slice."""
    for number in range(series):

        def change(dataset, d, number=number):
            put(dataset, SeriesInstanceUID=f"1.2.3.{number + 1}", SOPInstanceUID=f"1.2.3.{number + 1}.{d + 1}")
            put(dataset, StudyInstanceUID=f"1.2.{number // 2 + 1}", SeriesDescription="Thorax " * 20)

        paths = write_tiny_ct(folder / f"study{number // 2}" / f"{number}", change=change)
    paths[2].unlink()
    return folder


def shown(capsys, *arguments: object) -> list[str]:
    capsys.readouterr()
    ctvae(["inspect", *map(str, arguments)])
    return capsys.readouterr().out.splitlines()


def test_a_series_is_one_line_of_at_most_100_columns(tmp_path, capsys):
    lines = shown(capsys, write_many(tmp_path, 5))

    assert all(len(line) <= 100 for line in lines)
    assert sum(line.startswith("  eligible ") for line in lines) == 4
    assert sum(line.startswith("  rejected ") for line in lines) == 1
    assert any(line.startswith("study0/0  study 1.2.1") for line in lines)
    assert any(line.startswith("MISSING_SLICE: ") for line in lines)
    assert "by headers" in lines[-1]


def test_details_are_shown_on_request(tmp_path, capsys):
    lines = shown(capsys, write_many(tmp_path, 2), "-v")

    assert "    1.2.3.1" in lines
    assert any(line.startswith("    MISSING_SLICE: ") for line in lines)


def test_very_many_unreadable_files_are_one_line_and_each_has_its_path_on_request(tmp_path, capsys):
    write_many(tmp_path, 1)
    for number in range(300):
        (tmp_path / f"bad{number:03}.dcm").write_bytes(b"no DICOM")

    [line] = [line for line in shown(capsys, tmp_path) if "unreadable" in line]

    assert line == "300 unreadable files (3 named): bad000.dcm, bad001.dcm, bad002.dcm"
    assert sum(line.startswith("rejected bad") for line in shown(capsys, tmp_path, "-v")) == 300


def test_pixels_gives_the_verdict_of_encode(tmp_path, capsys):
    """Values that cannot be HU: only decoding shows it."""
    write_tiny_ct(tmp_path / "in", np.full((5, 16, 16), 2000, np.uint16))

    by_headers = json.loads("\n".join(shown(capsys, tmp_path / "in", "--json")))
    by_pixels = json.loads("\n".join(shown(capsys, tmp_path / "in", "--json", "--pixels")))
    ctvae(["encode", str(tmp_path / "in"), "-o", str(tmp_path / "out")])
    encoded = json.loads((tmp_path / "out" / "outcome.json").read_text())

    assert (by_headers["judged_by"], by_pixels["judged_by"]) == ("headers", "pixels")
    assert by_headers["series"][0]["status"] == "eligible"
    assert by_pixels["series"][0]["status"] == "rejected"
    assert by_pixels["series"][0]["reason"] == encoded["series"][0]["reason"] == "NOT_HU"
