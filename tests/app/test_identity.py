"""What is written without being asked for the identity of the patient does not hold it: each file, each log line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from app.cli import main
from tests.support.checkout import ROOT

IDENTITY = {
    "PatientName": "Zwergnase^Klabauter",
    "PatientID": "PID-8471",
    "PatientBirthDate": "19570913",
    "PatientAddress": "Rumpelweg 7",
    "OtherPatientIDs": "OID-5523",
    "AccessionNumber": "ACC-66221",
    "StudyID": "SID-90417",
    "StudyDate": "20170828",
    "StudyTime": "142233.171",
    "SeriesDate": "20170829",
    "ReferringPhysicianName": "Eisenbart^Doktor",
    "InstitutionName": "Siebengebirgsklinik",
    "StudyDescription": "Verdacht auf Nasenzwang",
    "SeriesDescription": "Thorax Klabauterfrau",
    "PatientComments": "wohnt im Wald",
}
FORBIDDEN = {part for value in IDENTITY.values() for part in value.replace("^", " ").split() if len(part) > 3}
FORBIDDEN |= {"19570913", "Rumpelweg"}
OF_THE_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
OF_THE_STUDY = (
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyDescription"),
    *("ContentDate", "ContentTime"),
)
"""What an object must say to be filed with the study (PS3.3 C.7.1.1, C.7.2.1); it stands there and nowhere else."""

SITE_KEY = "a site's secret"
ALSO = ("--fhir", "--tap", "block3:none", "--parametric-map")
CARDS = ("--card", "png", "--card", "sc", "--card", "pdf")
OBJECTS = {"features.sr.dcm", "card.sc.dcm", "card.pdf.dcm", "features.block3.none.window1.map.dcm"}


@pytest.fixture(scope="module")
def root(phantom_ct, tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("identity")


@pytest.fixture(scope="module")
def written(phantom_ct, root) -> dict[str, str]:
    """Name → text of what the commands wrote and said about a series that is read and one that is rejected."""
    source = root / "Zwergnase_Klabauter" / "PID-8471"
    files = sorted(phantom_ct.iterdir())
    for folder, chosen in (("whole", files), ("rejected", [*files[:8], *files[10:16]])):
        (source / folder).mkdir(parents=True)
        for file in chosen:
            slice_ = pydicom.dcmread(file)
            for keyword, value in IDENTITY.items():
                setattr(slice_, keyword, value)
            if folder == "rejected":
                slice_.SeriesInstanceUID += ".1"
                slice_.SOPInstanceUID = slice_.file_meta.MediaStorageSOPInstanceUID = f"{slice_.SOPInstanceUID}.1"
            slice_.save_as(source / folder / file.name)
    program = "import sys; from app.cli import main; sys.exit(main())"
    texts = {}
    for name, arguments in (
        ("encode", ("encode", source, "-o", "out", *CARDS, *ALSO, "-l", "DEBUG")),
        ("inspect", ("inspect", source, "--json")),
        ("table", ("table", "out", "-o", "features.csv", "-l", "DEBUG")),
    ):
        command = [sys.executable, "-c", program, *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CTVAE_SITE_KEY": SITE_KEY}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        texts[f"{name}, stdout"], texts[f"{name}, stderr"] = done.stdout, done.stderr
    for file in (*root.glob("out/**/*"), root / "features.csv"):
        if file.is_file() and file.suffix != ".dcm":
            texts[file.name] = file.read_bytes().decode("latin-1")
    return texts


def test_the_runs_met_both_series(written):
    outcome = json.loads(written["outcome.json"])
    assert sorted(series["status"] for series in outcome["series"]) == ["rejected", "written"]
    assert {"features.json", "features.fhir.json", "result.json", "card.png", "features.csv"} <= written.keys()


def test_nothing_that_was_written_or_said_holds_the_identity(written):
    for name in ("outcome.json", "inspect, stdout"):
        document = json.loads(written[name])
        for series in document["series"]:
            assert series.pop("folder")  # documented: a path of the input, which may hold a name
        written[name] = json.dumps(document)
    found = {(name, word) for name, text in written.items() for word in FORBIDDEN if word.lower() in text.lower()}
    assert found == set()


def objects(root: Path) -> dict[str, Dataset]:
    return {file.name: pydicom.dcmread(file) for file in root.glob("out/*/*.dcm")}


def test_dicom_holds_the_identity_in_the_attributes_that_file_it_with_the_study_and_nowhere_else(written, root):
    made = objects(root)
    assert made.keys() >= OBJECTS
    for name, one in made.items():
        assert one.PatientID == IDENTITY["PatientID"], f"{name} would not be found with its patient"
        for keyword in (*OF_THE_PATIENT, *OF_THE_STUDY):
            if keyword in one:
                delattr(one, keyword)
        left = BytesIO()
        one.save_as(left)
        text = inflated(left.getvalue())
        assert {word for word in FORBIDDEN if word.lower() in text.lower()} == set(), name


def inflated(content: bytes) -> str:
    """The bytes as text, and what the streams of a PDF in them hold."""
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL)
    unpacked = [zlib.decompressobj().decompress(stream) for stream in streams if stream[:1] == b"x"]
    assert b"%PDF" not in content or unpacked, "no stream of the PDF was read"
    return b"\n".join([content, *unpacked]).decode("latin-1")


def test_the_search_would_find_a_name_in_a_compressed_stream():
    packed = b"%PDF stream\n" + zlib.compress(b"(Zwergnase) Tj") + b"\nendstream"
    assert "Zwergnase" not in packed.decode("latin-1") and "Zwergnase" in inflated(packed)


def test_the_page_is_drawn_without_the_identity_whatever_its_letters_look_like(written, root, phantom_ct, monkeypatch):
    """Pixels cannot be searched for a name; but the same scan of another patient gives the same page."""
    monkeypatch.setenv("CTVAE_SITE_KEY", SITE_KEY)
    assert main(["encode", str(phantom_ct), "-o", str(root / "another"), *CARDS, *ALSO]) == 0
    (ours,), (others,) = root.glob("out/*/card.png"), root.glob("another/*/card.png")
    made, another = objects(root), {file.name: pydicom.dcmread(file) for file in others.parent.glob("*.dcm")}
    assert made["card.sc.dcm"].PatientID != another["card.sc.dcm"].PatientID
    assert ours.read_bytes() == others.read_bytes()
    assert made["card.sc.dcm"].PixelData == another["card.sc.dcm"].PixelData
    assert made["card.pdf.dcm"].EncapsulatedDocument == another["card.pdf.dcm"].EncapsulatedDocument
