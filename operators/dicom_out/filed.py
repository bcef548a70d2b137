"""A DICOM object other than the SR as a file, and its name.

The same record gives the same bytes: neither clock nor host enters, and the SOP Instance UID is a digest of the job key
and everything else.
"""

from __future__ import annotations

import hashlib
from io import BytesIO

from pydicom import dcmwrite
from pydicom.dataset import Dataset

from operators.record import FeatureRecord
from operators.sr import codes as sr_codes
from operators.sr import header as sr_header

IMPLEMENTATION_VERSION_NAME = "CTVAE_2"


def named_file(filed: Dataset, record: FeatureRecord) -> bytes:
    """Return the object as a file (PS3.10), Explicit VR Little Endian, named by its job and its whole content.

    Text keeps the character set of the images if that holds it; else it is UTF-8.
    """
    if terms := sr_header.character_set(record.series.first, sr_header.text_of(filed)):
        filed.SpecificCharacterSet = terms
    digest = hashlib.sha256(_part10(filed)).hexdigest()
    filed.SOPInstanceUID = sr_codes.derived_uid("object", record.job_key, digest)
    return _part10(filed)


def _part10(filed: Dataset) -> bytes:
    buffer = BytesIO()
    filed.file_meta, filed.preamble = sr_header.file_meta(filed, IMPLEMENTATION_VERSION_NAME), bytes(128)
    dcmwrite(buffer, filed, enforce_file_format=True)
    return buffer.getvalue()
