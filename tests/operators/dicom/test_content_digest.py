"""The digest of what an image is: the same in every encoding, another for every other header or pixel."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from operators.dicom.content_digest import content_digest
from operators.synthetic.write_ct import affine_for
from operators.synthetic.write_enhanced_ct import write_enhanced_ct
from tests.support.tiny_ct import CODECS, compress, put, stored_values, write_tiny_ct


def made(folder, syntax=ExplicitVRLittleEndian, change=None, seed=0):
    def both(dataset, d):
        item = Dataset()
        put(item, ReferencedSOPClassUID="1.2.3")
        dataset.ReferencedImageSequence = [item, Dataset()]
        put(dataset, PatientName="Müller^Änne", SpecificCharacterSet="ISO_IR 100")
        for one in filter(None, [change, compress(syntax) if syntax in CODECS else None]):
            one(dataset, d)

    (path,) = write_tiny_ct(folder, stored_values(1, seed=seed), syntax=syntax, change=both)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return content_digest(made(tmp_path_factory.mktemp("plain")))


NATIVE = [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


@pytest.mark.parametrize("syntax", [*NATIVE, *CODECS])
def test_the_encoding_does_not_count(plain, tmp_path, syntax):
    assert content_digest(made(tmp_path, syntax)) == plain is not None


def test_sequences_of_undefined_length_and_padding_do_not_count(plain, tmp_path):
    def change(dataset, d):
        dataset["ReferencedImageSequence"].is_undefined_length = True
        dataset.ReferencedImageSequence[0].is_undefined_length_sequence_item = True
        dataset.add_new(0xFFFCFFFC, "OB", b"\0" * 8)

    assert content_digest(made(tmp_path, change=change)) == plain


OTHER = [
    lambda dataset, d: put(dataset, RescaleIntercept=1),
    lambda dataset, d: put(dataset, PatientID="P2"),
    lambda dataset, d: put(dataset.ReferencedImageSequence[0], ReferencedSOPClassUID="1.2.4"),
    lambda dataset, d: dataset.ReferencedImageSequence.pop(),
    lambda dataset, d: setattr(dataset, "PixelData", dataset.PixelData[::-1]),
]


@pytest.mark.parametrize("change", OTHER)
def test_every_other_header_or_pixel_counts(plain, tmp_path, change):
    assert content_digest(made(tmp_path, change=change)) not in (plain, None)


def test_what_cannot_be_decoded_has_none(tmp_path):
    def change(dataset, d):
        dataset.PixelData = b"\0\0"

    assert content_digest(made(tmp_path, change=change)) is None
    (tmp_path / "text").write_text("no DICOM")
    assert content_digest(tmp_path / "text") is None


def test_frames_of_a_multi_frame_file_are_compared(tmp_path):
    shape, spacing = (3, 8, 8), (2.0, 1.0, 1.0)
    hu = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
    (path,) = write_enhanced_ct(hu, affine_for(shape, spacing), tmp_path)
    plain, dataset = content_digest(path), dcmread(path)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(path)
    assert content_digest(path) == plain is not None
    dataset.decompress(generate_instance_uid=False)
    dataset.PixelData = dataset.PixelData[:-1] + b"\1"
    dataset.save_as(path)
    assert content_digest(path) not in (plain, None)
