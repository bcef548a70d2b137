"""What the meta information says of a data set is a label; what the bytes are counts."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from operators.build_volume import build_volume
from operators.dicom.decode_slice import decode_slice
from operators.dicom.header import Header
from operators.dicom.header_values import HeaderValues
from operators.dicom.read_header import read_instance
from operators.read_study import read_studies
from operators.series.ct_images import keep_ct_images
from tests.support.checkout import SHARED_FAULTS, skip_or_fail
from tests.support.tiny_ct import compress, put, stored_values, write_tiny_ct

STORED = stored_values()
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
JPEG_LS = "1.2.840.10008.1.2.4.80"


def relabelled(folder, written: str, said: str, **options) -> None:
    """A series in one transfer syntax whose meta information says another."""
    for path in write_tiny_ct(folder, STORED, syntax=written, **options):
        content = path.read_bytes()
        start = content.index(b"\2\0\x10\0UI")
        length = int.from_bytes(content[start + 6 : start + 8], "little")
        label = said.encode() + b"\0" * (len(said) % 2)
        meta = content[start : start + 6] + len(label).to_bytes(2, "little") + label
        total = int.from_bytes(content[140:144], "little") + len(label) - length
        content = (
            content[:140] + total.to_bytes(4, "little") + content[144:start] + meta + content[start + 8 + length :]
        )
        path.write_bytes(content)


def voxels_of(folder):
    [study] = read_studies(folder).studies
    return build_volume(keep_ct_images(study.series[0])).voxels()


@pytest.mark.parametrize("written", NATIVE)
@pytest.mark.parametrize("said", [*NATIVE, DeflatedExplicitVRLittleEndian, ""])
def test_a_series_is_read_as_it_is_encoded_whatever_its_label_says(tmp_path, written, said):
    relabelled(tmp_path, written, said)
    np.testing.assert_array_equal(voxels_of(tmp_path), STORED)


def test_a_sequence_before_the_pixels_is_stepped_over_in_the_encoding_that_was_found(tmp_path):
    from pydicom.dataset import Dataset

    def change(dataset, d):
        item = Dataset()
        item.PatientID = "not this one"
        dataset.ReferencedStudySequence = [item]
        dataset["ReferencedStudySequence"].is_undefined_length = True

    relabelled(tmp_path, ExplicitVRBigEndian, ExplicitVRLittleEndian, change=change)
    np.testing.assert_array_equal(voxels_of(tmp_path), STORED)


def test_a_header_that_is_implicit_under_the_label_of_a_codec_is_read(tmp_path):
    for path in write_tiny_ct(tmp_path, STORED, change=compress(JPEG_LS)):
        assert read_instance(path).header.file_meta.TransferSyntaxUID == JPEG_LS
    np.testing.assert_array_equal(voxels_of(tmp_path), STORED)


def test_the_real_mislabelled_series_is_read():
    fault = SHARED_FAULTS / "implicit-said-explicit"
    if not fault.exists():
        skip_or_fail("no ../shared/faults/implicit-said-explicit beside this checkout")
    [study] = read_studies(fault).studies
    volume = build_volume(keep_ct_images(study.series[0]))
    assert volume.shape == (16, 64, 64) and volume.voxels().min() == -1000


@pytest.mark.parametrize("excess", [2, 512, 4096])
@pytest.mark.parametrize("syntax", NATIVE)
def test_pixel_data_longer_than_the_matrix_is_read_and_the_rest_ignored(tmp_path, excess, syntax):
    def change(dataset, d):
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").tobytes() + b"\x7f" * excess
        dataset["PixelData"].VR = "OW"

    write_tiny_ct(tmp_path, STORED, syntax=syntax, change=change)
    np.testing.assert_array_equal(voxels_of(tmp_path), STORED)


# Values that headers share


def test_a_change_to_one_header_changes_no_other(tmp_path):
    values = HeaderValues()
    first, second = (read_instance(path, values).header for path in write_tiny_ct(tmp_path, STORED[:2]))
    assert isinstance(first, Header)
    for element in first.elements():
        if element.keyword == "Manufacturer" or element.keyword == "PatientName":
            element.value = "changed"
    for element in (*first.values(), *(one for _, one in first.items())):
        element.value = None
    assert str(second.PatientName) == "Nobody^Known" and second.Rows == 6


def test_a_reading_keeps_no_more_values_than_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr("operators.dicom.header_values._KEPT_VALUES", 10)
    values = HeaderValues()
    for path in write_tiny_ct(tmp_path, STORED, change=lambda ds, d: put(ds, SeriesDescription=f"slice {d}")):
        assert str(read_instance(path, values).header.SeriesDescription).startswith("slice")
    assert len(values._made) <= 10


def test_no_value_of_a_patient_outlives_its_reading(tmp_path):
    """Not even in the caches of the process: a daemon reads many patients."""
    import gc

    [path] = write_tiny_ct(tmp_path, STORED[:1], change=lambda ds, d: put(ds, PatientID="very private 4711"))
    decode_slice(read_instance(path))
    gc.collect()
    kept = [one for one in gc.get_objects() if type(one).__name__ == "DataElement" and one.tag == 0x00100020]
    assert not [one for one in kept if one.value == "very private 4711"]
