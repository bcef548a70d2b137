"""The card as DICOM: valid, filed with the study, the patient's name in the images' characters."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pydicom
import pytest

from operators.dicom_out.card_objects import encapsulated_pdf, secondary_capture
from tests.support.sr_records import STUDY, ct_header, dciodvfy, made_record, reread

PIXELS = np.arange(3 * 5 * 7, dtype=np.uint8).reshape(5, 7, 3)
PDF = b"%PDF-1.4 made"
OBJECTS = {
    "SCImage": lambda record: secondary_capture(record, PIXELS),
    "EncapsulatedPDF": lambda record: encapsulated_pdf(record, PDF),
}
NAMES = {"ISO_IR 126": "Παπαδόπουλος^Γιώργος", "ISO 2022 IR 87": "Yamada^Tarou=山田^太郎"}


@pytest.mark.parametrize("iod", OBJECTS)
def test_dciodvfy_finds_no_error(iod, tmp_path):
    assert dciodvfy(OBJECTS[iod](made_record()), tmp_path, (iod,)) == []


@pytest.mark.parametrize("iod", OBJECTS)
def test_it_is_filed_with_the_study_in_a_series_of_its_own(iod):
    record = made_record()
    document, sr = pydicom.dcmread(BytesIO(OBJECTS[iod](record))), reread(record)
    assert (document.StudyInstanceUID, document.PatientID) == (STUDY, sr.PatientID)
    assert document.SeriesInstanceUID != sr.SeriesInstanceUID
    assert (document.ContentDate, document.ContentTime) == (sr.ContentDate, sr.ContentTime)
    assert document.BurnedInAnnotation == "NO"


@pytest.mark.parametrize("iod", OBJECTS)
def test_equal_records_give_equal_bytes_and_another_page_another_uid(iod):
    assert OBJECTS[iod](made_record()) == OBJECTS[iod](made_record())
    pages = (secondary_capture(made_record(), PIXELS), secondary_capture(made_record(), PIXELS + 1))
    assert len({pydicom.dcmread(BytesIO(page)).SOPInstanceUID for page in pages}) == 2


@pytest.mark.parametrize(("terms", "name"), NAMES.items())
def test_the_patients_name_keeps_its_characters(terms, name):
    record = made_record([ct_header(SpecificCharacterSet=terms, PatientName=name)])
    document = pydicom.dcmread(BytesIO(secondary_capture(record, PIXELS)))
    assert str(document.PatientName) == name


def test_the_page_is_stored_exactly():
    record = made_record()
    image = pydicom.dcmread(BytesIO(secondary_capture(record, PIXELS)))
    assert np.array_equal(image.pixel_array, PIXELS)
    document = pydicom.dcmread(BytesIO(encapsulated_pdf(record, PDF)))
    assert document.EncapsulatedDocument[: document.EncapsulatedDocumentLength] == PDF
