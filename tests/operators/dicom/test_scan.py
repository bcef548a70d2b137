"""The scan of plain files finds what pydicom finds, on every real file, or leaves the file to pydicom."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import config, dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from operators.dicom.decode_slice import decode_slice
from operators.dicom.file_format import is_dicom
from operators.dicom.header import plain
from operators.dicom.read_header import HEADER_TAGS, plain_uids, read_instance
from operators.dicom.scan import SCANNED_BYTES, scan_elements
from operators.read_study import stated_uids
from tests.support.tiny_ct import write_tiny_ct

PIXELS = frozenset({0x7FE00010})


@pytest.fixture(autouse=True)
def _values_as_they_are(monkeypatch):
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
    monkeypatch.setattr(config.settings, "writing_validation_mode", config.IGNORE)


def wanted_tags() -> frozenset[int]:
    from pydicom.datadict import tag_for_keyword

    return frozenset(tag for keyword in HEADER_TAGS if (tag := tag_for_keyword(keyword)) is not None)


def by_pydicom(data: bytes) -> list[tuple[int, bytes]]:
    """Wanted elements of a file as pydicom finds them, not converted, without sequences."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(BytesIO(data), stop_before_pixels=True)
        raw = [dataset.get_item(tag) for tag in dataset.keys() if int(tag) in wanted_tags()]  # noqa: SIM118
    return [(int(one.tag), one.value if isinstance(one.value, bytes) else (one.value or "").encode()) for one in raw]


def scanned(data: bytes) -> list[tuple[int, bytes]] | None:
    found = scan_elements(data, wanted_tags(), PIXELS, whole=True)
    if found is None:
        return None
    # pydicom has made text of this one already, to know how to read the others
    return [(tag, value.rstrip(b" ") if tag == 0x00080005 else value) for tag, _, value in found.elements]


def test_every_real_file_is_scanned_as_pydicom_reads_it(shared_ct):
    plain = files = quick = 0
    for path in sorted(shared_ct(".").rglob("*"))[::5]:
        data = path.read_bytes() if path.is_file() else b""
        if not is_dicom(data[:SCANNED_BYTES]):
            continue
        files += 1
        quick += uids_are_those_of_the_whole_header(path)
        found = scanned(data)
        if found is not None:
            plain += 1
            assert found == [
                (tag, value.rstrip(b" ") if tag == 0x00080005 else value) for tag, value in by_pydicom(data)
            ]
    assert plain > 0.98 * files > 100 and quick > 0.9 * files


def uids_are_those_of_the_whole_header(path: Path) -> bool:
    """Whether `plain_uids` tells them at all; None, which leaves a file to `read_instance`, is never wrong."""
    if not (uids := plain_uids(path)):
        return False
    instance = read_instance(path)
    assert instance is not None and uids == stated_uids(instance)
    return True


def test_a_file_that_is_cut_off_anywhere_has_the_uids_of_its_whole_header_or_is_left_to_it(tmp_path):
    (path, *_) = write_tiny_ct(tmp_path)
    whole, cut, quick = path.read_bytes(), tmp_path / "cut.dcm", 0
    for length in range(132, len(whole), 3):
        cut.write_bytes(whole[:length])
        quick += uids_are_those_of_the_whole_header(cut)
    assert quick and uids_are_those_of_the_whole_header(path)


def ct_file(syntax: str, *, undefined: bool, nested: int) -> bytes:
    """A CT header with sequences in it, and pixels."""
    inner = Dataset()
    inner.PatientID = "not this one"
    for _ in range(nested):
        outer = Dataset()
        outer.ReferencedSeriesSequence = [inner, Dataset()]
        inner = outer
    dataset = FileDataset(None, {}, preamble=b"\0" * 128)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = CTImageStorage, "1.2.3"
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = CTImageStorage, "1.2.3", "CT"
    dataset.ReferencedStudySequence = [inner, inner]
    for element in dataset.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = undefined
            for item in element.value:
                item.is_undefined_length_sequence_item = undefined
    dataset.PatientID, dataset.Rows, dataset.Columns, dataset.BitsAllocated = "this one", 2, 2, 16
    dataset.PixelRepresentation, dataset.PixelData = 1, bytes(8)
    out = BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("nested", [0, 1, 4])
def test_sequences_are_passed_over_whole(syntax, undefined, nested):
    data = ct_file(syntax, undefined=undefined, nested=nested)

    assert scanned(data) == by_pydicom(data)
    assert (0x00100020, b"this one") in scanned(data)


def test_sequences_nested_without_end_are_left_to_pydicom():
    assert scanned(ct_file(ExplicitVRLittleEndian, undefined=True, nested=30)) is None


@given(st.data())
def test_broken_bytes_are_never_read_otherwise_than_pydicom_reads_them(data):
    """Where the scan takes a damaged file at all, pydicom finds the same elements in it."""
    whole = bytearray(ct_file(ExplicitVRLittleEndian, undefined=True, nested=1))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(132, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(140, len(whole)))])

    found = scan_elements(damaged, wanted_tags(), PIXELS, whole=True)

    if found is not None and found.stop_tag:
        assert scanned(damaged) == by_pydicom(damaged)


def test_an_instance_is_the_same_with_the_scan_and_without(tmp_path, monkeypatch):
    (path, *_) = write_tiny_ct(tmp_path)
    fast = read_instance(path)
    monkeypatch.setattr("operators.dicom.read_header.scan_elements", lambda *_, **__: None)

    slow = read_instance(path)

    for keyword in ("TransferSyntaxUID", "MediaStorageSOPClassUID"):
        assert fast.header.file_meta.get(keyword) == slow.header.file_meta.get(keyword)
    for keyword in HEADER_TAGS:
        assert plain(fast.header.get(keyword)) == plain(slow.header.get(keyword))
    assert fast.header == slow.header
    assert fast.pixels == slow.pixels


def test_a_slice_stays_what_it_was_when_the_next_is_decoded(tmp_path):
    """Stored values share a buffer; slices do not."""
    first, second = (read_instance(path) for path in write_tiny_ct(tmp_path)[:2])
    kept = decode_slice(first).hu
    before = kept.copy()

    decode_slice(second)

    np.testing.assert_array_equal(kept, before)
