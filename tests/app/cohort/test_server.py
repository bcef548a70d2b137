"""A cohort on a DICOMweb server: a real Orthanc, in a network of its own; and a server that does not answer."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from pydicom import dcmread
from pydicom.uid import RLELossless

from app.cohort import server
from app.cohort.indexed_series import INDEX, open_indexed
from app.cohort.row import Row
from app.cohort.server import Server, server_of
from app.cohort.units import Unit
from operators.errors import RunFailed, SeriesFailed, StartError
from tests.support.cohort_runs import SETTINGS, run_here
from tests.support.cohorts import write_patient
from tests.support.orthanc import DICOMWEB_URL, loopback, need_orthanc, orthanc

RUN = """
import sys
import app.dicomweb
from pathlib import Path
from app.cohort.server import server_of
from operators.errors import StartError
from tests.support.cohort_runs import SETTINGS, run_here
app.dicomweb.PAGE = 5
if __name__ == "__main__":
    url = sys.argv[1]
    print(len(list(server_of(f"{url}?PatientID=SECRET1", None).rows())), "instances of one patient")
    try:
        server_of(f"{url}/nothing", None).count()
    except StartError as error:
        print(error.reason, error.message)
    sys.exit(run_here(server_of(url, None), Path(sys.argv[2])))
"""
UNIT = Unit("study 1.2", (Row(b"", b"1.2/1.3/1.4.dcm", 0, 0, "dicom", "1.2", "1.3", "1.2/1.3", ""),), {}, {})


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Three studies, one compressed, one of too few slices; in folders as the server names them."""
    made, tree = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("tree")
    write_patient(made / "1", 1)
    write_patient(made / "2", 2, transfer_syntax=RLELossless)
    for file in sorted(write_patient(made / "3", 3).iterdir())[2:]:
        file.unlink()
    for file in made.rglob("*.dcm"):
        header = dcmread(file)
        place = tree / header.StudyInstanceUID / header.SeriesInstanceUID / f"{header.SOPInstanceUID}.dcm"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    return tree


def tables(output: Path) -> dict[str, bytes]:
    (folder,) = output.glob("*/tables")
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.parquet")}


def test_a_server_gives_the_tables_of_its_files_byte_for_byte_page_by_page(tree, tmp_path):
    need_orthanc()
    by_folder = tmp_path / "folder"
    assert run_here(tree, by_folder) == 0
    with loopback() as network, orthanc(tmp_path, network=network):
        network.send(*sorted(tree.rglob("*.dcm")))
        run = network.run([sys.executable, "-c", RUN, DICOMWEB_URL, tmp_path / "server"])
    assert run.returncode == 0, run.stderr
    assert "2 written, 1 rejected, 0 skipped, 0 failed" in run.stdout
    assert "12 instances of one patient" in run.stdout
    assert "SERVER_FAILED 127.0.0.1 answered 404; check the URL" in run.stdout
    assert tables(tmp_path / "server") == tables(by_folder)
    with pytest.raises(StartError, match="NO_DATA: the data of the cohort are on a DICOMweb server"):
        open_indexed(tmp_path / "server" / INDEX, SETTINGS, set()).__enter__()


@pytest.mark.parametrize(
    ("problem", "ends_as"),
    [
        (requests.ConnectionError(), RunFailed),  # it is gone, for every study
        (requests.exceptions.ChunkedEncodingError(), SeriesFailed),
        (ValueError("11 of 12 instances came"), SeriesFailed),
        (OSError(28, "No space left on device"), SeriesFailed),
    ],
)
def test_what_does_not_come_is_asked_for_again_and_then_fails_with_its_reason(problem, ends_as, monkeypatch):
    monkeypatch.setattr(server, "WAIT_S", 0)
    attempts = []

    def fetch(fails):
        def once(*_args):
            attempts.append(1)
            if fails or len(attempts) < server.TRIES:
                raise problem

        with monkeypatch.context() as patch, ExitStack() as stack:
            patch.setattr(Server, "_fetch_once", once)
            Server("http://127.0.0.1:1/x").fetched(UNIT, stack)

    full_disk = getattr(problem, "errno", None) == 28
    with pytest.raises(ends_as, match="INPUT_OUTPUT_ERROR: No space" if full_disk else "SERVER_FAILED: 127.0.0.1 gave"):
        fetch(fails=True)
    assert len(attempts) == (1 if full_disk else server.TRIES)
    if not full_disk:
        attempts.clear()
        fetch(fails=False)
        assert len(attempts) == server.TRIES


def test_the_query_of_the_url_chooses_studies_and_a_path_is_no_server():
    found = server_of("http://127.0.0.1/dicom-web/?StudyDate=2020-2021&ModalitiesInStudy=CT", None)
    assert found == Server("http://127.0.0.1/dicom-web", (("StudyDate", "2020-2021"), ("ModalitiesInStudy", "CT")))
    assert server_of("archive/ct", None) is None
