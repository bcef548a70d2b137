"""What all DICOM objects of ctvae share, including the SR: patient, study, their own series, and equipment.

Each kind of object has its own series for each source series and part. Patient, study and time are copied from the
headers of the source series, so that the object is filed with the study.
Headers of real scans hold values that DICOM forbids. An invalid value is left empty where the standard allows it; an
identifier is never shortened, for the result may identify somebody else. Nothing of this is ever logged.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from datetime import date

from pydicom.charset import python_encoding
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR

from operators import __version__
from operators.dicom.values import is_valid_uid, texts_in
from operators.record import FeatureRecord
from operators.series.acquisition import distinct
from operators.sr import codes as sr_codes
from operators.sr.predecessor import Predecessor
from operators.types import Series

NO_DATE = ("19000101", "000000")
"""Content Date and Time must not be empty (PS3.3 C.17.2), and the clock is not an input."""

IMPLEMENTATION_CLASS_UID = sr_codes.derived_uid("ctvae", "implementation class")
PLACEHOLDER_UID = "2.25.0"

PLAIN_CHARACTER_SETS = tuple(f"ISO_IR {n}" for n in (100, 101, 109, 110, 126, 127, 138, 144, 148, 166))


def filed_with(
    record: FeatureRecord,
    sop_class: str,
    modality: str,
    series_number: int,
    description: str,
    predecessor: Predecessor | None = None,
) -> Dataset:
    """Return the modules Patient, General Study, General Series and General Equipment (PS3.3 C.7).

    Args:
        record: the record of the series that the object is filed with.
        sop_class: UID of its SOP class.
        modality: modality of the new series.
        series_number: number of the new series.
        description: description of the new series.
        predecessor: an earlier SR that this one replaces.
    """
    filed = patient_and_study(record.series)
    filed.SOPClassUID, filed.SOPInstanceUID = sop_class, PLACEHOLDER_UID
    filed.Modality = modality
    filed.SeriesInstanceUID = sr_series_uid(record, sop_class)
    filed.SeriesNumber, filed.SeriesDescription = series_number, description
    filed.InstanceNumber = instance_number(record, predecessor)
    filed.ContentDate, filed.ContentTime = content_moment(record.series)
    filed.Manufacturer, filed.ManufacturerModelName = sr_codes.MANUFACTURER, "VAE features of CT"
    filed.SoftwareVersions = __version__
    return filed


def sr_series_uid(record: FeatureRecord, sop_class: str) -> str:
    """Return the UID of the SR series of a source series and part, under one model, configuration and version."""
    series = record.series
    source = (series.study_instance_uid, series.series_instance_uid, series.part)
    return sr_codes.derived_uid(
        "sr series", *source, record.model.weights_sha256, record.config_digest, __version__, str(sop_class)
    )


def instance_number(record: FeatureRecord, predecessor: Predecessor | None = None) -> int:
    """Return a number that is unique in the series, and higher where more slices arrived later.

    It consists of the number of slices and four digits of the job key. Viewers show the last SR of a series.
    """
    number = record.identity.instances * 10_000 + int(record.job_key[:8], 16) % 10_000
    return number if predecessor is None else max(number, predecessor.instance_number + 1)


def file_meta(filed: Dataset, version_name: str) -> FileMetaDataset:
    """Return the File Meta Information (PS3.10 7.1) for an object from `filed_with`, Explicit VR Little Endian.

    Args:
        filed: the object.
        version_name: Implementation Version Name of the writer.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = filed.SOPClassUID, filed.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = version_name
    return meta


def text_of(filed: Dataset) -> str:
    """Return all text of an object, including sequences, to choose a character set for it."""
    return "".join(str(element.value) for element in filed.iterall() if element.VR in CUSTOMIZABLE_CHARSET_VR)


def patient_and_study(series: Series) -> Dataset:
    """Return what the Patient and General Study modules require (PS3.3 C.7.1.1, C.7.2.1), and what copies share."""
    source = series.first
    nobody, headers = Dataset(), [instance.header for instance in series.instances]

    def agreed(keyword: str) -> Dataset:
        """Return the value that all slices share, or an empty one: a wrong name is worse than none."""
        return source if len(distinct(headers, keyword)) == 1 else nobody

    taken = Dataset()
    taken.PatientName = _person_name(agreed("PatientName"), "PatientName")
    taken.PatientID = _identifier(source, "PatientID", 64)
    taken.PatientBirthDate = _date(agreed("PatientBirthDate"), "PatientBirthDate")
    sex = _text(agreed("PatientSex"), "PatientSex").upper()
    taken.PatientSex = sex if sex in ("M", "F", "O") else ""
    taken.StudyInstanceUID = series.study_instance_uid
    taken.StudyDate = _date(source, "StudyDate")
    taken.StudyTime = _time(source, "StudyTime")
    taken.StudyID = _identifier(source, "StudyID", 16)
    taken.AccessionNumber = _identifier(source, "AccessionNumber", 16)
    taken.ReferringPhysicianName = _person_name(source, "ReferringPhysicianName")
    if description := _text(source, "StudyDescription"):
        taken.StudyDescription = description[:64].strip()
    if issuer := _identifier(source, "IssuerOfPatientID", 64):
        taken.IssuerOfPatientID = issuer
    if re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", zone := _text(source, "TimezoneOffsetFromUTC")):
        taken.TimezoneOffsetFromUTC = zone
    taken.update(_deidentification(source))
    return taken


def content_moment(series: Series) -> tuple[str, str]:
    """Return (date, time) of the SR: those of the study, else of the series, the acquisition or the content."""
    source = series.first
    for event in ("Study", "Series", "Acquisition", "Content"):
        if day := _date(source, f"{event}Date"):
            return day, _time(source, f"{event}Time") or NO_DATE[1]
    return NO_DATE


def evidence(series: Series) -> list[tuple[str, str]]:
    """Return the SOP classes and instances that can be referenced, sorted by UID."""
    return sorted(set(_references(series)), key=lambda uids: uids[::-1])


def character_set(header: Dataset, written: str) -> str | None:
    """Return the Specific Character Set for all text written: None for ASCII, else the source's own, else UTF-8.

    The source's own is kept if it is a simple one, so that a PACS that compares bytes finds the same name. Text with
    code extensions (ISO 2022) becomes UTF-8, which holds all of it.
    """
    if written.isascii():
        return None
    own = _text(header, "SpecificCharacterSet")
    if own not in PLAIN_CHARACTER_SETS:
        return "ISO_IR 192"
    try:
        written.encode(python_encoding[own])
    except UnicodeEncodeError:
        return "ISO_IR 192"
    return own


def _references(series: Series) -> Iterator[tuple[str, str]]:
    for instance in series.instances:
        uids = _text(instance.header, "SOPClassUID"), _text(instance.header, "SOPInstanceUID")
        if all(map(is_valid_uid, uids)):
            yield uids


def _deidentification(source: Dataset) -> Dataset:
    """Return Patient Identity Removed with its method, which is required with the value YES (PS3.3 C.7.1.1)."""
    taken = Dataset()
    removed = _text(source, "PatientIdentityRemoved").upper()
    if removed == "YES":
        methods = [_without_controls(method)[:64].strip() for method in texts_in(source, "DeidentificationMethod")]
        taken.DeidentificationMethod = [method for method in methods if method] or "As said in the source images"
    if removed in ("YES", "NO"):
        taken.PatientIdentityRemoved = removed
    return taken


def _text(source: Dataset, keyword: str) -> str:
    """Return the only value, printable and stripped; empty where there is none or several."""
    values = texts_in(source, keyword)
    return _without_controls(values[0]) if len(values) == 1 else ""


def _without_controls(text: str) -> str:
    """Replace a backslash, which would end a value, control characters and surrogates by spaces; strip the text."""
    bad = ("Cc", "Cs")
    return "".join(
        " " if character == "\\" or unicodedata.category(character) in bad else character for character in text
    ).strip()


def _identifier(source: Dataset, keyword: str, length: int) -> str:
    text = _text(source, keyword)
    return text if len(text) <= length else ""


def _person_name(source: Dataset, keyword: str) -> str:
    """Return a PN (PS3.5 6.2): up to 3 groups (alphabetic, ideographic, phonetic) of 64 characters, 5 components."""
    groups = ["^".join(group.split("^")[:5])[:64].rstrip("^ ") for group in _text(source, keyword).split("=")[:3]]
    return "=".join(groups).rstrip("=")


def _date(source: Dataset, keyword: str) -> str:
    """Return a DA as YYYYMMDD; the ACR-NEMA form YYYY.MM.DD is accepted."""
    found = re.fullmatch(r"(\d{4})\.?(\d\d)\.?(\d\d)", _text(source, keyword), re.ASCII)
    if not found:
        return ""
    try:
        return date(int(found[1]), int(found[2]), int(found[3])).strftime("%Y%m%d").zfill(8)
    except ValueError:
        return ""


def _time(source: Dataset, keyword: str) -> str:
    """Return a TM as HHMMSS.FFFFFF, as precise as the source; the ACR-NEMA form HH:MM:SS is accepted."""
    text = _text(source, keyword).replace(":", "")
    valid = r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?"
    return text if re.fullmatch(valid, text, re.ASCII) else ""
