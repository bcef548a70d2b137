"""A grid as a Parametric Map: its values exactly, each where it lies in the patient."""

from __future__ import annotations

import sys
from dataclasses import replace
from io import BytesIO

import highdicom as hd
import numpy as np
import pydicom
import pytest

from operators.dicom_out.parametric_map import parametric_maps
from operators.record import FeatureRecord, TapValues
from operators.results.map_files import MAP_FILE
from operators.write_features import ResultFiles, write_features
from tests.support.orthanc import URL, loopback, need_orthanc, orthanc
from tests.support.sr_records import STUDY, ct_header, dciodvfy, made_record, reread

SHAPE = (3, 2, 4, 5)
NAME = "features.block3.none.window1.map.dcm"
GRID = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def with_grid(record: FeatureRecord, grid: np.ndarray = GRID) -> FeatureRecord:
    values = grid.reshape(-1)
    taps = {**record.taps, "block3.none": TapValues("block3.none", "none", values, values[None], grid.shape)}
    return replace(record, encoding=replace(record.encoding, taps=taps))


@pytest.fixture(scope="module")
def content() -> bytes:
    made = parametric_maps(with_grid(made_record()))
    assert list(made) == [NAME] and MAP_FILE.fullmatch(NAME)
    return made[NAME]


def test_dciodvfy_finds_no_error(content, tmp_path):
    assert dciodvfy(content, tmp_path, ("ParametricMap",)) == []


def test_highdicom_reads_each_value_at_its_place_in_the_patient(content):
    record = with_grid(made_record())
    read = hd.imread(BytesIO(content))
    window = record.encoding.windows
    cell = np.array(window.voxels.shape[2:]) / SHAPE[1:]
    met = set()
    for pixels, groups in zip(read.pixel_array, read.PerFrameFunctionalGroupsSequence, strict=True):
        channel = int(groups.RealWorldValueMappingSequence[0].LUTLabel.split()[1])
        position = np.array([*groups.PlanePositionSequence[0].ImagePositionPatient, 1.0])
        index = ((np.linalg.inv(window.affines_lps_mm[0]) @ position)[:3] + 0.5) / cell - 0.5
        z = round(index[0])
        assert index == pytest.approx([z, 0, 0], abs=1e-6)
        assert np.array_equal(pixels, GRID[channel, z])
        assert groups.FrameContentSequence[0].DimensionIndexValues[0] == channel + 1
        met.add((channel, z))
    assert len(met) == SHAPE[0] * SHAPE[1]
    steps = np.linalg.norm(window.affines_lps_mm[0][:3, :3], axis=0) * cell
    measures = read.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [measures.SpacingBetweenSlices, *measures.PixelSpacing] == pytest.approx(steps.tolist())


def test_it_is_filed_with_the_study_in_the_frame_of_reference_of_the_ct(content):
    frame = "1.2.826.0.1.3680043.10.5"
    record = with_grid(made_record())
    record = replace(record, identity=replace(record.identity, frame_of_reference_uid=frame))
    made, sr = pydicom.dcmread(BytesIO(parametric_maps(record)[NAME])), reread(record)
    assert (made.StudyInstanceUID, made.PatientID, made.FrameOfReferenceUID) == (STUDY, sr.PatientID, frame)
    assert made.SeriesInstanceUID != sr.SeriesInstanceUID
    assert len(made.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 3
    own = pydicom.dcmread(BytesIO(content)).FrameOfReferenceUID
    assert own.startswith("2.25."), "a series without a frame of reference is registered with nothing else"


def test_equal_records_give_equal_bytes_and_another_grid_another_uid(content):
    assert parametric_maps(with_grid(made_record()))[NAME] == content
    other = parametric_maps(with_grid(made_record(), GRID + 1))[NAME]
    assert pydicom.dcmread(BytesIO(other)).SOPInstanceUID != pydicom.dcmread(BytesIO(content)).SOPInstanceUID


def test_the_patients_name_keeps_its_characters():
    header = ct_header(SpecificCharacterSet="ISO_IR 126", PatientName="Παπαδόπουλος^Γιώργος")
    made = parametric_maps(with_grid(made_record([header])))[NAME]
    assert str(pydicom.dcmread(BytesIO(made)).PatientName) == "Παπαδόπουλος^Γιώργος"


def test_it_is_written_on_request_and_removed_by_a_run_that_does_not_ask(tmp_path):
    record = with_grid(made_record())
    folder = tmp_path / record.series_instance_uid
    write_features(record, tmp_path, ResultFiles(maps=True))
    assert (folder / NAME).exists()
    write_features(record, tmp_path)
    assert not (folder / NAME).exists()


THROUGH = """
import json, sys, urllib.request
url, sent, got = sys.argv[1:]
with urllib.request.urlopen(url + "/instances", data=open(sent, "rb").read()) as answer:
    path = json.load(answer)["Path"]
with urllib.request.urlopen(url + path + "/file") as answer:
    open(got, "wb").write(answer.read())
"""


def test_orthanc_gives_it_back_exactly(content, tmp_path):
    need_orthanc()
    sent, got = tmp_path / "sent.dcm", tmp_path / "got.dcm"
    sent.write_bytes(content)
    with loopback() as network, orthanc(tmp_path, network=network):
        network.run([sys.executable, "-c", THROUGH, URL, sent, got], check=True)
    assert got.read_bytes() == content
