"""FeatureRecord → DICOM Structured Report: the same numbers as in `features.json`, filed with the study.

A Comprehensive 3D SR with the template TID 1500 (Measurement Report, PS3.16); `docs/structured-report.md` shows the
tree.
The same record gives the same bytes: neither clock nor host nor anything random enters, and the SOP Instance UID is a
digest of the job key and everything else.
"""

from __future__ import annotations

import hashlib
from io import SEEK_END

from pydicom import dcmwrite
from pydicom.charset import python_encoding
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, Comprehensive3DSRStorage, ComprehensiveSRStorage

from operators.record import FeatureRecord
from operators.sr import codes as sr_codes
from operators.sr import header as sr_header
from operators.sr.codes import SrClass
from operators.sr.content import Item
from operators.sr.encode_items import element, item_elements, reference, sequence
from operators.sr.predecessor import Predecessor
from operators.sr.tree import algorithms, measurement_report

SOP_CLASSES: dict[SrClass, UID] = {
    "comprehensive_3d": Comprehensive3DSRStorage,
    "comprehensive": ComprehensiveSRStorage,
}

SERIES_NUMBER = 9901
SERIES_DESCRIPTION = f"CT VAE: {sr_codes.NOT_FOR_DIAGNOSIS}"
DEVICE_SERIAL_NUMBER = "software"
IMPLEMENTATION_VERSION_NAME = "CTVAE_SR_2"
PROCESSING_ALGORITHM = ("Newcode1", "99IHE", "Processing Algorithm")
"""Purpose of Reference of IHE AI Results, whose profile has no final code yet; the SDK's writer uses this one."""


def sr_bytes(
    record: FeatureRecord, sr_class: SrClass = "comprehensive_3d", predecessor: Predecessor | None = None
) -> bytes:
    """Return the SR of one series as a DICOM file (PS3.10), Explicit VR Little Endian; equal arguments, equal bytes.

    Args:
        record: mu, sigma and other taps of up to 256 dimensions are listed; for a longer one the SR gives a digest.
        sr_class: `comprehensive` for a PACS that refuses Comprehensive 3D SR; the content is the same.
        predecessor: an earlier SR that this one replaces; part of the content.

    Raises:
        SeriesFailed: `NON_FINITE_NUMBER` for NaN or infinity; `BAD_NAME` for a tap or quantity whose name does not fit
            into a code.
    """
    root = measurement_report(record)
    header = _header(record, SOP_CLASSES[sr_class], predecessor)
    header.ContributingEquipmentSequence = _equipment(root)
    text = "".join([sr_header.text_of(header), *root.texts()])
    if terms := sr_header.character_set(record.series.first, text):
        header.SpecificCharacterSet = terms
    body = item_elements(root, python_encoding[terms or "ISO_IR 6"]) | _document(record, predecessor)
    written = b"".join(element(tag, vr, value) for tag, (vr, value) in sorted(body.items()))
    return _named(header, written, record.job_key)


def _header(record: FeatureRecord, sop_class: UID, predecessor: Predecessor | None) -> Dataset:
    """Return everything before the content: patient, study, SR series (PS3.3 C.17.1) and equipment."""
    header = sr_header.filed_with(record, sop_class, "SR", SERIES_NUMBER, SERIES_DESCRIPTION, predecessor)
    header.ReferencedPerformedProcedureStepSequence = []
    header.DeviceSerialNumber = DEVICE_SERIAL_NUMBER
    scheme = Dataset()
    scheme.CodingSchemeDesignator = sr_codes.SCHEME
    scheme.CodingSchemeName = sr_codes.SCHEME_NAME
    scheme.CodingSchemeResponsibleOrganization = sr_codes.MANUFACTURER
    header.CodingSchemeIdentificationSequence = [scheme]
    return header


def _equipment(root: Item) -> list[Dataset]:
    """Return Contributing Equipment, one item per algorithm (IHE AI Results)."""
    items = []
    for name, version in dict.fromkeys(algorithms(root)):
        purpose, item = Dataset(), Dataset()
        purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = PROCESSING_ALGORITHM
        item.Manufacturer = sr_codes.MANUFACTURER
        item.ManufacturerModelName = name[:64]
        item.SoftwareVersions = version[:64]
        item.DeviceUID = sr_codes.derived_uid("algorithm", name, version)
        item.PurposeOfReferenceCodeSequence = [purpose]
        items.append(item)
    return items


def _document(record: FeatureRecord, predecessor: Predecessor | None) -> dict[int, tuple[bytes, bytes]]:
    """Return the SR Document General module (PS3.3 C.17.2), as tag → VR and value."""
    elements = {
        0x0040A372: (b"SQ", b""),
        0x0040A491: (b"CS", b"COMPLETE"),
        0x0040A493: (b"CS", b"UNVERIFIED"),
        0x0040A496: (b"CS", b"PRELIMINARY"),
    }
    study, series = record.series.study_instance_uid, record.series.series_instance_uid
    if references := sr_header.evidence(record.series):
        elements[0x0040A375] = (b"SQ", _hierarchy(study, series, references))
    if predecessor is not None:
        replaced = [(predecessor.sop_class_uid, predecessor.sop_instance_uid)]
        ct_series = predecessor.study_instance_uid, predecessor.series_instance_uid
        elements[0x0040A360] = (b"SQ", _hierarchy(*ct_series, replaced))
    return elements


def _hierarchy(study: str, series: str, references: list[tuple[str, str]]) -> bytes:
    """Return the items of a sequence of the Hierarchical SOP Instance Reference macro (PS3.3 C.17.2.1)."""
    of_series = element(0x00081199, b"SQ", sequence(reference(*uids) for uids in references))
    of_series += element(0x0020000E, b"UI", series.encode("ascii"))
    of_study = element(0x00081115, b"SQ", sequence([of_series])) + element(0x0020000D, b"UI", study.encode("ascii"))
    return sequence([of_study])


def _named(header: Dataset, body: bytes, job_key: str) -> bytes:
    """Return the file, named by its job and whole content, so that equal UIDs mean equal bytes."""
    content = hashlib.sha256(_part10(header, body)).hexdigest()
    header.SOPInstanceUID = sr_codes.derived_uid("sr", job_key, content)
    return _part10(header, body)


def _part10(header: Dataset, body: bytes) -> bytes:
    """Return header and body as a file; all elements of the header have lower tags than those of the body."""
    buffer = DicomBytesIO(bytes(128) + b"DICM")
    buffer.seek(0, SEEK_END)
    write_file_meta_info(buffer, sr_header.file_meta(header, IMPLEMENTATION_VERSION_NAME))
    dcmwrite(buffer, header, implicit_vr=False, little_endian=True)
    return buffer.getvalue() + body
