"""A channel of a grid on the slices of the CT: each pixel the value of its cell, found again through the mapping."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import highdicom as hd
import numpy as np
import pydicom
import pytest

from app.cli import main
from models.phantom import PhantomFactors, make_phantom
from operators.dicom_out.overlay import EDGE, OUTSIDE, overlays
from operators.record import FeatureRecord
from operators.results.map_files import MAP_FILE, Overlay
from operators.synthetic.write_ct import CtOptions, affine_for, write_ct_series
from operators.write_features import ResultFiles, write_features
from tests.support.sr_records import dciodvfy, record_of_series, with_grid

SHAPE, SPACING_MM = (24, 24, 30), (12.0, 10.0, 8.0)
"""A scan that is longer than a window of 160 mm and wider than it: some pixels lie outside."""

NAME, CHANNEL = "features.block3.none.channel1.map.dcm", 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ct")
    hu = make_phantom(PhantomFactors(), shape=SHAPE, spacing_mm=SPACING_MM, seed=1)
    write_ct_series(hu, affine_for(SHAPE, SPACING_MM), folder, CtOptions())
    return folder


@pytest.fixture(scope="module")
def record(folder) -> FeatureRecord:
    return with_grid(record_of_series(folder))


@pytest.fixture(scope="module")
def content(record) -> bytes:
    made = overlays(record, (Overlay("block3.none", CHANNEL),))
    assert list(made) == [NAME] and MAP_FILE.fullmatch(NAME)
    return made[NAME]


def positions(made: pydicom.Dataset) -> np.ndarray:
    frames = made.PerFrameFunctionalGroupsSequence
    return np.array([frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], float)


def test_dciodvfy_finds_no_error(content, tmp_path):
    assert dciodvfy(content, tmp_path, ("ParametricMap",)) == []


def test_each_frame_lies_on_a_slice_of_the_ct_and_has_its_rows_and_columns(content, folder):
    slices = [pydicom.dcmread(file, stop_before_pixels=True) for file in folder.iterdir()]
    made = pydicom.dcmread(BytesIO(content))
    own = sorted((list(one.ImagePositionPatient) for one in slices), key=lambda position: position[2])
    assert np.allclose(np.sort(positions(made), axis=0), np.array(own, float), atol=1e-4)
    assert (made.Rows, made.Columns) == (slices[0].Rows, slices[0].Columns)
    assert made.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == slices[0].SeriesInstanceUID


def test_the_mapping_gives_each_pixel_the_value_of_the_cell_that_it_lies_in(content, record):
    read = hd.imread(BytesIO(content))
    (mapping,) = read.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    stored = read.pixel_array[np.argsort(positions(read)[:, 2])]
    windows, tap = record.encoding.windows, record.taps["block3.none"]
    grids = tap.windows.reshape(-1, *tap.shape)[:, CHANNEL]
    cell = np.array(windows.voxels.shape[2:]) / grids.shape[1:]
    outside = 0
    for place in np.ndindex(stored.shape):
        at = record.volume.affine_lps_mm @ [*place, 1.0]
        indices = np.array([(np.linalg.inv(one) @ at)[:3] for one in windows.affines_lps_mm])
        nearest = int(np.argmin(abs(indices[:, 0] - (windows.voxels.shape[2] - 1) / 2)))
        found = np.floor((indices[nearest] + 0.5) / cell + EDGE).astype(int)
        if (found < 0).any() or (found >= grids.shape[1:]).any():
            outside += 1
            assert stored[place] == OUTSIDE
        else:
            value = stored[place] * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept
            assert value == pytest.approx(grids[nearest][tuple(found)], abs=1e-5)
    assert 0 < outside < stored.size and len(grids) > 1
    assert (stored[stored != OUTSIDE].min(), stored.max()) == (0.0, 1.0)


def test_two_channels_are_two_series_for_a_viewer_shows_one_map_of_each(record):
    made = overlays(record, (Overlay("block3.none", 0), Overlay("block3.none", CHANNEL)))
    series = {pydicom.dcmread(BytesIO(one)).SeriesInstanceUID for one in made.values()}
    assert len(series) == 2


def test_equal_records_give_equal_bytes(content, record):
    assert overlays(record, (Overlay("block3.none", CHANNEL),))[NAME] == content


def test_a_channel_that_is_the_same_everywhere_is_a_map_of_zeros(record):
    tap = record.taps["block3.none"]
    even = replace(tap, windows=np.full_like(tap.windows, 7.0))
    encoding = replace(record.encoding, taps={**record.taps, "block3.none": even})
    (content,) = overlays(replace(record, encoding=encoding), (Overlay("block3.none", 0),)).values()
    read = hd.imread(BytesIO(content))
    assert set(np.unique(read.pixel_array)) == {OUTSIDE, 0.0}
    assert read.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0].RealWorldValueIntercept == 7.0


def test_it_is_written_on_request_and_removed_by_a_run_that_does_not_ask(record, tmp_path):
    folder = tmp_path / record.series_instance_uid
    write_features(record, tmp_path, ResultFiles(overlays=(Overlay("block3.none", 0),)))
    assert [file.name for file in folder.glob("*.map.dcm")] == ["features.block3.none.channel0.map.dcm"]
    write_features(record, tmp_path)
    assert not list(folder.glob("*.map.dcm"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--overlay", "block1:0"), "add block1:none to the taps"),
        (("--taps", "block1:none", "--overlay", "block1:32"), "expected block1:0 to block1:31"),
        (("--taps", "block1:none", "--overlay", "block1"), "names no channel of block1"),
    ],
)
def test_a_channel_that_is_not_there_is_one_line_and_code_3(folder, tmp_path, capsys, options, said):
    assert main(["encode", str(folder), "-o", str(tmp_path / "out"), *options]) == 3
    error = capsys.readouterr().err
    assert "UNKNOWN_TAP" in error and said in error
