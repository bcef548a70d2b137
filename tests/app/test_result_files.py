"""What `ctvae encode` writes beside features.json and the SR, only where it is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest

from app.cli import main
from operators.sr.read import read_sr

PLAIN = {"features.json", "features.sr.dcm"}


def names(output: Path) -> set[str]:
    (folder,) = (path for path in output.iterdir() if path.is_dir())
    return {file.name for file in folder.iterdir()}


@pytest.fixture(scope="module")
def encoded(phantom_ct, tmp_path_factory) -> Path:
    """An output folder with cards, whose SR names a predecessor."""
    first, output = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("output")
    assert main(["encode", str(phantom_ct), "-o", str(first)]) == 0
    (sr,) = first.glob("*/features.sr.dcm")
    shutil.copy(sr, output / "earlier.dcm")
    cards = [word for kind in ("png", "sc", "pdf") for word in ("--card", kind)]
    earlier = ["--predecessor", str(output / "earlier.dcm")]
    assert main(["encode", str(phantom_ct), "-o", str(output), *cards, *earlier, "--fhir"]) == 0
    return output


def test_card_and_fhir_come_in_the_formats_that_were_asked_for(encoded):
    assert names(encoded) == PLAIN | {"card.png", "card.sc.dcm", "card.pdf.dcm", "features.fhir.json"}
    (folder,) = (path for path in encoded.iterdir() if path.is_dir())
    read = [pydicom.dcmread(folder / name) for name in ("features.sr.dcm", "card.sc.dcm", "card.pdf.dcm")]
    assert len({document.StudyInstanceUID for document in read}) == 1
    assert len({document.SeriesInstanceUID for document in read}) == 3


def test_the_new_sr_names_the_one_whose_place_it_takes(encoded):
    (sr,) = encoded.glob("*/features.sr.dcm")
    earlier = pydicom.dcmread(encoded / "earlier.dcm")
    assert read_sr(sr).predecessors == (earlier.SOPInstanceUID,)
    assert pydicom.dcmread(sr).InstanceNumber > earlier.InstanceNumber


def test_a_run_that_wants_no_card_removes_that_of_an_earlier_one(encoded, phantom_ct, tmp_path):
    shutil.copytree(encoded, tmp_path / "output")
    assert main(["encode", str(phantom_ct), "-o", str(tmp_path / "output")]) == 0
    assert names(tmp_path / "output") == PLAIN


def test_a_predecessor_of_no_series_here_is_named(encoded, tmp_path, phantom_ct, capsys):
    other = pydicom.dcmread(encoded / "earlier.dcm")
    for item in other.iterall():
        if item.keyword == "UID" and item.value.endswith(next(encoded.glob("*/features.json")).parent.name[-8:]):
            item.value = "2.25.9"
    other.save_as(tmp_path / "other.dcm")
    words = ["--predecessor", str(tmp_path / "other.dcm")]
    assert main(["encode", str(phantom_ct), "-o", str(tmp_path / "o"), *words]) == 0
    assert "no SR refers to the predecessor of series 2.25.9" in capsys.readouterr().err


@pytest.mark.parametrize("twice", [False, True])
def test_a_predecessor_that_cannot_be_one_ends_the_run_at_its_start(encoded, phantom_ct, tmp_path, capsys, twice):
    given = [encoded / "earlier.dcm"] * 2 if twice else [next(phantom_ct.iterdir())]
    words = [word for file in given for word in ("--predecessor", str(file))]
    assert main(["encode", str(phantom_ct), "-o", str(tmp_path), *words]) == 3
    assert ("SEVERAL_PREDECESSORS" if twice else "NOT_OUR_SR") in capsys.readouterr().err
