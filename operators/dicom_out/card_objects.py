"""The card as Secondary Capture and as Encapsulated PDF (PS3.3 A.8.1, A.45.1).

Written with pydicom: highdicom's SCImage requires an orientation in the patient or on a slide, which a page does not
have; highdicom has no class for a PDF.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import EncapsulatedPDFStorage, SecondaryCaptureImageStorage

from operators.dicom_out.filed import named_file
from operators.record import FeatureRecord
from operators.sr.codes import NOT_FOR_DIAGNOSIS
from operators.sr.header import filed_with

SERIES_NUMBERS = {"sc": 9902, "pdf": 9903}
DESCRIPTION = f"CT VAE card: {NOT_FOR_DIAGNOSIS}"
TITLE = "CT VAE card"
ON_A_WORKSTATION = "WSD"


def secondary_capture(record: FeatureRecord, pixels: NDArray[np.uint8]) -> bytes:
    """Return a page as a Secondary Capture Image in its own series.

    Args:
        record: the record of the series that the page describes.
        pixels: uint8 (rows, columns, 3), RGB, which show no patient's name.
    """
    image = filed_with(record, SecondaryCaptureImageStorage, "OT", SERIES_NUMBERS["sc"], DESCRIPTION)
    image.ConversionType = ON_A_WORKSTATION
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.Laterality, image.PatientOrientation = "", ""
    image.BurnedInAnnotation = "NO"
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.Rows, image.Columns = pixels.shape[:2]
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    content = pixels.tobytes()
    image.add_new("PixelData", "OB", content + bytes(len(content) % 2))
    return named_file(image, record)


def encapsulated_pdf(record: FeatureRecord, pdf: bytes) -> bytes:
    """Return a page as an Encapsulated PDF in its own series."""
    document = filed_with(record, EncapsulatedPDFStorage, "DOC", SERIES_NUMBERS["pdf"], DESCRIPTION)
    document.ConversionType = ON_A_WORKSTATION
    document.AcquisitionDateTime = ""
    document.BurnedInAnnotation = "NO"
    document.DocumentTitle = TITLE
    document.ConceptNameCodeSequence = []
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document.EncapsulatedDocumentLength = len(pdf)
    document.EncapsulatedDocument = pdf + bytes(len(pdf) % 2)
    return named_file(document, record)
