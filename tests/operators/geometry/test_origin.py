"""One frame of reference, or one for each slice of a regular stack; anything between is of several scans."""

from __future__ import annotations

import numpy as np
import pytest

from operators.errors import SeriesRejected
from operators.geometry.origin import frame_of_reference
from tests.operators.series.test_split import parts_of, phases, voxels, write_phases
from tests.operators.test_build_volume import codes, only_series, rejected, volume_of
from tests.support.tiny_ct import FRAME, put, stored_values, write_tiny_ct


def write(folder, frames, **options):
    """One slice for each frame of reference, an empty one is none."""
    change = lambda ds, d: put(ds, FrameOfReferenceUID=frames[d] or None)  # noqa: E731
    return write_tiny_ct(folder, stored_values(len(frames)), change=change, **options)


@pytest.mark.parametrize("slices", [4, 5, 12])
def test_a_frame_of_reference_for_each_slice_of_a_regular_stack_is_read(tmp_path, slices):
    write(tmp_path, [f"1.2.{d + 1}" for d in range(slices)])
    assert codes(volume_of(tmp_path)) == ["FRAME_OF_REFERENCE_PER_SLICE"]


@pytest.mark.parametrize(
    "frames",
    [
        ["1.2.1", *[FRAME] * 5],
        [*["1.2.1"] * 3, *["1.2.2"] * 3],
        [f"1.2.{min(d, 4) + 1}" for d in range(6)],
        ["", *[f"1.2.{d}" for d in range(1, 6)]],
    ],
    ids=["one other", "halves", "two alike", "one without"],
)
def test_any_number_of_frames_of_reference_between_one_and_all_is_rejected(tmp_path, frames):
    write(tmp_path, frames)
    assert rejected(tmp_path).reason == "MIXED_FRAME_OF_REFERENCE"


def test_slices_without_a_frame_of_reference_beside_others_are_read(tmp_path):
    write(tmp_path, ["", *[FRAME] * 5])
    assert codes(volume_of(tmp_path)) == []


def test_slices_of_a_frame_of_reference_each_that_are_no_regular_stack_are_rejected(tmp_path):
    write(tmp_path, [f"1.2.{d + 1}" for d in range(12)])[5].unlink()
    assert rejected(tmp_path).reason == "MISSING_SLICE"


def test_phases_come_apart_though_each_slice_has_a_frame_of_reference(tmp_path):
    volumes = phases(2)

    def tell(dataset, phase, d):
        put(dataset, AcquisitionNumber=phase, FrameOfReferenceUID=f"1.2.{phase * 10 + d + 1}")

    write_phases(tmp_path, volumes, tell)
    for series, volume in zip(parts_of(tmp_path), volumes, strict=True):
        np.testing.assert_array_equal(voxels(series), volume)


@pytest.mark.parametrize(("second", "reasons"), [(b"\xd6\xd0\xce\xc4", ["MIXED_PATIENT"]), (b"\xd5\xc5\xc8\xfd", [])])
def test_two_patients_whose_ids_cannot_be_decoded_are_told_apart(tmp_path, second, reasons):
    """GBK under a declared UTF-8: both IDs are empty as text, but their bytes differ."""

    def change(dataset, d):
        put(dataset, SpecificCharacterSet="ISO_IR 192", PatientID="#ID#ID#" + "x")

    for d, path in enumerate(write_tiny_ct(tmp_path, stored_values(6), change=change)):
        identifier = second if d >= 3 else b"\xd5\xc5\xc8\xfd"
        path.write_bytes(path.read_bytes().replace(b"#ID#ID#x", identifier.ljust(8)))
    try:
        found = codes(volume_of(tmp_path))
    except SeriesRejected as error:
        assert [error.reason] == reasons and "\ufffd" not in error.message
    else:
        assert reasons == [] and found == ["UNDECODABLE_TEXT"]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [([FRAME] * 4, FRAME), (["1.2.1", "1.2.2", "1.2.3", "1.2.4"], None), ([""] * 4, None), (["x"] * 4, None)],
)
def test_the_frame_of_reference_is_the_one_that_all_slices_share(tmp_path, frames, expected):
    write(tmp_path, frames)
    assert frame_of_reference([one.header for one in only_series(tmp_path).instances]) == expected


def test_a_real_series_of_the_lidc_is_read(shared_ct):
    volume = volume_of(shared_ct("lidc_0001_slab"))
    assert volume.shape == (14, 512, 512) and "FRAME_OF_REFERENCE_PER_SLICE" in codes(volume)
