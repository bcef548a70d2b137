"""What is written without being asked for the identity of the patient does not hold it: each file, each log line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pydicom
import pytest

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


@pytest.fixture(scope="module")
def written(phantom_ct, tmp_path_factory) -> dict[str, str]:
    """Name → text of what the commands wrote and said about a series that is read and one that is rejected."""
    root = tmp_path_factory.mktemp("identity")
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
        ("encode", ("encode", source, "-o", "out", "--card", "png", "-l", "DEBUG")),
        ("inspect", ("inspect", source, "--json")),
        ("table", ("table", "out", "-o", "features.csv", "-l", "DEBUG")),
    ):
        command = [sys.executable, "-c", program, *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CTVAE_SITE_KEY": "a site's secret"}
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
    assert {"features.json", "result.json", "card.png", "features.csv"} <= written.keys()


def test_nothing_that_was_written_or_said_holds_the_identity(written):
    for name in ("outcome.json", "inspect, stdout"):
        document = json.loads(written[name])
        for series in document["series"]:
            assert series.pop("folder")  # documented: a path of the input, which may hold a name
        written[name] = json.dumps(document)
    found = {(name, word) for name, text in written.items() for word in FORBIDDEN if word.lower() in text.lower()}
    assert found == set()
