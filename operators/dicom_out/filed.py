"""What every DICOM object of ctvae but the SR has in common: patient, study, series, equipment, and its name.

Each kind has a series of its own for each source series and part. The same record gives the same bytes: no clock and no
host go in, and the SOP Instance UID is a digest of the job key and of all else.
"""

from __future__ import annotations

import hashlib
from io import BytesIO

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from operators import __version__
from operators.record import FeatureRecord
from operators.sr import codes as sr_codes
from operators.sr import header as sr_header
from operators.sr.write import IMPLEMENTATION_CLASS_UID, PLACEHOLDER_UID, instance_number, sr_series_uid

IMPLEMENTATION_VERSION_NAME = "CTVAE_2"


def filed_with(record: FeatureRecord, sop_class: str, modality: str, series_number: int, description: str) -> Dataset:
    """Return the modules Patient, General Study, General Series and General Equipment (PS3.3 C.7).

    Args:
        record: of the series that the object is filed with.
        sop_class: UID.
        modality: of the new series.
        series_number: of the new series.
        description: of the new series.
    """
    filed = sr_header.patient_and_study(record.series)
    filed.SOPClassUID, filed.SOPInstanceUID = sop_class, PLACEHOLDER_UID
    filed.Modality = modality
    filed.SeriesInstanceUID = sr_series_uid(record, sop_class)
    filed.SeriesNumber, filed.SeriesDescription = series_number, description
    filed.InstanceNumber = instance_number(record)
    filed.ContentDate, filed.ContentTime = sr_header.content_moment(record.series)
    filed.Manufacturer, filed.ManufacturerModelName = sr_codes.MANUFACTURER, "VAE features of CT"
    filed.SoftwareVersions = __version__
    return filed


def named_file(filed: Dataset, record: FeatureRecord) -> bytes:
    """Return the object as a file (PS3.10), Explicit VR Little Endian, named by its job and its whole content.

    Text keeps the character set of the images where that holds it, else it is UTF-8.
    """
    text = "".join(str(element.value) for element in filed.iterall() if element.VR in ("PN", "LO", "SH", "ST", "LT"))
    if terms := sr_header.character_set(record.series.first, text):
        filed.SpecificCharacterSet = terms
    digest = hashlib.sha256(_part10(filed)).hexdigest()
    filed.SOPInstanceUID = sr_codes.derived_uid("object", record.job_key, digest)
    return _part10(filed)


def _part10(filed: Dataset) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = filed.SOPClassUID, filed.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    buffer = BytesIO()
    filed.file_meta, filed.preamble = meta, bytes(128)
    dcmwrite(buffer, filed, enforce_file_format=True)
    return buffer.getvalue()
