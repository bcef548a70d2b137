"""DATA of a cohort: folder, list or DICOMDIR; what is wrong with it is one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from app.cohort import look, scan
from app.cohort.encode_unit import Work, encode_unit
from app.cohort.index import Index, bring_up_to_date
from app.cohort.partition import config_digest
from app.cohort.site_key import KEY_FILE, site_key
from app.cohort.source import open_source
from app.open_pipeline import open_pipeline
from operators.errors import StartError
from operators.read_study import read_files, read_studies
from operators.types import Outcome
from tests.support.cohort_runs import SETTINGS, run_here
from tests.support.cohorts import write_list, write_patient
from tests.support.tiny_ct import put, save


@pytest.fixture(scope="module")
def patient(tmp_path_factory) -> Path:
    return write_patient(tmp_path_factory.mktemp("data") / "p1", 1)


def index_of(data: Path, output: Path) -> Index:
    output.mkdir(exist_ok=True)
    return bring_up_to_date(open_source(data, output), output)


def test_a_list_names_files_and_folders_and_a_path_that_is_missing_is_an_outcome(patient, tmp_path):
    listed = write_list(tmp_path / "list.csv", ["path"], [str(patient)], ["nowhere/secret"], [str(patient)])
    found = list(open_source(listed, tmp_path / "out").files())
    assert [one for one in found if not isinstance(one, Outcome)] == sorted(patient.iterdir())
    (missing,) = [one for one in found if isinstance(one, Outcome)]
    assert (missing.status, missing.reason) == ("failed", "FILE_NOT_OPENED")
    assert str(missing.message).endswith("No such file or directory; check the path")
    assert "secret" not in str(missing.message)


def write_dicomdir(folder: Path, *named: list[str]) -> Path:
    """A DICOMDIR (PS3.3 F.3) whose image records name these files."""
    records = []
    for parts in named:
        records.append(Dataset())
        put(records[-1], DirectoryRecordType="IMAGE", ReferencedFileID=parts)
    directory = Dataset()
    directory.DirectoryRecordSequence = [Dataset(), *records]  # the first, as of a patient, references no file
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    save(directory, folder / "DICOMDIR")
    return folder / "DICOMDIR"


def test_a_dicomdir_is_read_and_may_not_lead_out_of_its_folder(patient, tmp_path):
    medium = tmp_path / "medium"
    files = list(shutil.copytree(patient, medium / "IMAGES").iterdir())
    names = [file.rename(file.with_suffix("")).name for file in files]
    listed = write_dicomdir(medium, *(["IMAGES", name] for name in names), ["IMAGES", "GONE"])
    index = index_of(listed, tmp_path / "out")
    (unit,) = index.units()
    assert len(unit.files) == len(names)
    ((missing, place),) = index.unreadable()
    assert missing.reason == "FILE_NOT_OPENED" and place == "IMAGES/GONE"
    with pytest.raises(StartError, match="BAD_DICOMDIR: the DICOMDIR references a file outside of its folder"):
        open_source(write_dicomdir(medium, ["..", "..", "secret"]), tmp_path / "out")


def test_what_is_wrong_with_data_is_one_line_with_a_code(patient, tmp_path):
    (tmp_path / "empty").mkdir()
    text = tmp_path / "text.txt"
    text.write_text("no list")
    wrong = {
        tmp_path / "nowhere": "INPUT_MISSING",
        text: "INPUT_NOT_A_FOLDER",
        write_list(
            tmp_path / "a.csv", ["file"], ["x"]
        ): "BAD_LIST: the list has the columns file; expected one called path",
        write_list(tmp_path / "b.csv", ["path"]): "BAD_LIST: the list names no path",
        tmp_path / "empty": "NO_DATA",
    }
    for data, said in wrong.items():
        with pytest.raises(StartError, match=said):
            run_here(data, tmp_path / "out" / data.name)
    with pytest.raises(StartError, match="INPUT_AND_OUTPUT_OVERLAP"):
        run_here(patient, patient / "out")


def test_a_file_is_read_again_only_if_it_changed(patient, tmp_path, monkeypatch):
    data = shutil.copytree(patient, tmp_path / "data")
    (before,) = index_of(data, tmp_path / "out").units()
    first, *_ = sorted(data.iterdir())
    first.touch()
    read = []

    def noted(path, plain=look.plain_uids):
        read.append(path)
        return plain(path)

    monkeypatch.setattr(look, "plain_uids", noted)
    (after,) = index_of(data, tmp_path / "out").units()
    assert read == [first]
    assert after.name == before.name and after.fingerprint != before.fingerprint


def test_a_scan_that_was_stopped_goes_on_where_it_was(patient, tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "CHUNK_FILES", 1)
    read = []

    def stopped_at_five(path, plain=look.plain_uids):
        read.append(path)
        if len(read) == 5:
            raise KeyboardInterrupt
        return plain(path)

    monkeypatch.setattr(look, "plain_uids", stopped_at_five)
    with pytest.raises(KeyboardInterrupt):
        index_of(patient, tmp_path / "out")
    (unit,) = index_of(patient, tmp_path / "out").units()
    assert len(unit.files) == len(list(patient.iterdir())) == len(read) - 1


def test_a_study_that_changes_after_it_was_indexed_fails_and_says_so(patient, tmp_path):
    data = shutil.copytree(patient, tmp_path / "data")
    (unit,) = index_of(data, tmp_path / "out").units()
    pipeline = open_pipeline(SETTINGS, None, None)
    about = pipeline.bundle.weights_sha256, config_digest(pipeline), pipeline.encoder.runtime
    work = Work(data, SETTINGS, None, tmp_path / "results", "none", *about)
    (good,) = encode_unit(unit, work, pipeline)
    assert good.outcome.status == "written"
    next(data.iterdir()).unlink()
    (ended,) = encode_unit(unit, work, pipeline)
    assert (ended.outcome.status, ended.outcome.reason) == ("failed", "FILE_CHANGED")
    assert ended.outcome.series_instance_uid == good.outcome.series_instance_uid


def test_a_series_uid_in_several_studies_is_told_apart_as_in_encode(tmp_path):
    for number in (1, 2):
        write_patient(tmp_path / "data" / str(number), number)
    for file in (tmp_path / "data").rglob("*.dcm"):
        header = dcmread(file)
        header.SeriesInstanceUID = "1.2.3"
        header.save_as(file)
    units = list(index_of(tmp_path / "data", tmp_path / "out").units())
    assert [unit.shared for unit in units] == [{"1.2.3": 2}] * 2
    whole = {series.series_instance_uid for series in read_studies(tmp_path / "data").series}
    roots = open_source(tmp_path / "data", tmp_path / "out").roots
    apart = [
        series.series_instance_uid
        for unit in units
        for series in read_files(
            roots, [tmp_path / "data" / one.path.decode() for one in unit.files], shared=unit.shared
        ).series
    ]
    assert set(apart) == whole and len(whole) == 2


def test_a_site_key_is_made_once_for_its_owner_alone(tmp_path):
    key = site_key(tmp_path)
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert site_key(tmp_path) == key and len(key) == 64
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(StartError, match=r"BAD_SITE_KEY: .* mode 644 .*; expected a key that only its owner can read"):
        site_key(tmp_path)
