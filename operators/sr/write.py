"""FeatureRecord → DICOM Structured Report: the same numbers as in `features.json`, filed with the study.

A Comprehensive 3D SR with template TID 1500 (Measurement Report, PS3.16), in it a TID 1501 measurement group for each
vector. The vectors are of the whole series, so no region is drawn and each group names the series it was measured on;
its instances are the evidence. `docs/structured-report.md` shows the tree.

The same record gives the same bytes: no clock, no host and nothing random goes in, and the SOP Instance UID is a digest
of the job key and of all else.
"""

from __future__ import annotations

import hashlib
from io import BytesIO

import highdicom as hd
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from operators import __version__
from operators.sr import codes as sr_codes
from operators.sr import header as sr_header
from operators.sr.tree import measurement_report
from operators.types import FeatureRecord

SERIES_NUMBER = 9901
SERIES_DESCRIPTION = f"CT VAE: {sr_codes.NOT_FOR_DIAGNOSIS}"
DEVICE_SERIAL_NUMBER = "software"
IMPLEMENTATION_CLASS_UID = sr_codes.derived_uid("ctvae", "implementation class")
IMPLEMENTATION_VERSION_NAME = "CTVAE_SR_1"
PLACEHOLDER_UID = "2.25.0"


def sr_bytes(record: FeatureRecord, predecessor: Dataset | None = None) -> bytes:
    """The SR as a DICOM file (PS3.10), Explicit VR Little Endian; equal records give equal bytes.

    Raises:
        SeriesFailed: as `structured_report`.
    """
    return _part10(structured_report(record, predecessor))


def structured_report(record: FeatureRecord, predecessor: Dataset | None = None) -> hd.sr.Comprehensive3DSR:
    """The SR of one series.

    Args:
        record: mu, sigma and every other tap of up to 256 dimensions are listed; a longer one is named by its digest.
        predecessor: an earlier SR that this one takes the place of (PS3.3 C.17.2.2); part of the content.

    Raises:
        SeriesFailed: NON_FINITE_NUMBER for NaN or infinity; BAD_NAME for a tap or quantity whose name no code can hold.
    """
    about_patient = sr_header.patient_and_study(record.series)
    day, time = sr_header.content_moment(record.series)
    document = hd.sr.Comprehensive3DSR(
        evidence=[_carrier(about_patient)],
        content=measurement_report(record),
        series_instance_uid=_series_instance_uid(record),
        series_number=SERIES_NUMBER,
        sop_instance_uid=PLACEHOLDER_UID,
        instance_number=sr_header.instance_number(record.series),
        manufacturer=sr_codes.MANUFACTURER,
        manufacturer_model_name="VAE features of CT",
        software_versions=__version__,
        device_serial_number=DEVICE_SERIAL_NUMBER,
        series_description=SERIES_DESCRIPTION,
        content_date=day,
        content_time=time,
        is_complete=True,
        previous_versions=None if predecessor is None else [predecessor],
        coding_schemes=[_coding_scheme()],
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    document.update(about_patient)
    _set_evidence(document, record)
    _forget_clock_and_library(document)
    if terms := sr_header.character_set(record.series.first, _all_text(document)):
        document.SpecificCharacterSet = terms
    return _with_uid(document, record.job_key)


def _carrier(about_patient: Dataset) -> Dataset:
    """An empty image header of the study: highdicom wants one to file the SR by.

    The names stay out of it: highdicom prints a person name that has no caret in a warning.
    """
    carrier = Dataset()
    carrier.StudyInstanceUID = about_patient.StudyInstanceUID
    carrier.SeriesInstanceUID = carrier.SOPInstanceUID = PLACEHOLDER_UID
    carrier.SOPClassUID = CTImageStorage
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(carrier, keyword, "")
    carrier.StudyDate = carrier.StudyTime = ""
    return carrier


def _set_evidence(document: Dataset, record: FeatureRecord) -> None:
    del document.CurrentRequestedProcedureEvidenceSequence
    if items := sr_header.evidence(record.series):
        document.CurrentRequestedProcedureEvidenceSequence = items


def _forget_clock_and_library(document: Dataset) -> None:
    """Takes out the times that highdicom reads from the clock, and names us as who wrote the file."""
    del document.InstanceCreationDate, document.InstanceCreationTime
    for equipment in document.ContributingEquipmentSequence:
        del equipment.ContributionDateTime
    document.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    document.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME


def _with_uid(document: hd.sr.Comprehensive3DSR, job_key: str) -> hd.sr.Comprehensive3DSR:
    """Names the document by its job and its whole content, so that equal UIDs mean equal bytes."""
    content = hashlib.sha256(_part10(document)).hexdigest()
    uid = UID(sr_codes.derived_uid("sr", job_key, content))
    document.SOPInstanceUID = document.file_meta.MediaStorageSOPInstanceUID = uid
    return document


def _part10(document: Dataset) -> bytes:
    buffer = BytesIO()
    document.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _series_instance_uid(record: FeatureRecord) -> str:
    """One SR series a study, model and configuration, however often it is run."""
    return sr_codes.derived_uid(
        "sr series", record.series.study_instance_uid, record.model.weights_sha256, record.config_digest
    )


def _coding_scheme() -> CodingSchemeIdentificationItem:
    return CodingSchemeIdentificationItem(
        designator=sr_codes.SCHEME, name=sr_codes.SCHEME_NAME, responsible_organization=sr_codes.MANUFACTURER
    )


def _all_text(document: Dataset) -> str:
    """All text of a document, to see which character set holds it."""
    return "".join(str(element.value) for element in document.iterall() if element.VR != "SQ")
