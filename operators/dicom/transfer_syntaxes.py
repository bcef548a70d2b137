"""The transfer syntaxes that ctvae reads (PS3.5 A), and how each stores pixels.

To support another compressed syntax, add its line to `COMPRESSED_SYNTAXES` and, if its codec is new, the decoder to
`operators.dicom.read_pixels`. A native syntax needs only a byte order.
"""

from __future__ import annotations

from typing import Final

from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import UID

from operators.errors import SeriesRejected

NATIVE_SYNTAXES: Final = {
    "1.2.840.10008.1.2": "<",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.1": "<",  # Explicit VR Little Endian
    "1.2.840.10008.1.2.1.99": "<",  # Deflated Explicit VR Little Endian
    "1.2.840.10008.1.2.2": ">",  # Explicit VR Big Endian
}
"""Transfer syntaxes with native pixels, and their byte order."""

COMPRESSED_SYNTAXES: Final = {
    "1.2.840.10008.1.2.5": "rle",
    "1.2.840.10008.1.2.4.50": "jpeg",  # Baseline, 8 bit
    "1.2.840.10008.1.2.4.51": "jpeg",  # Extended, 12 bit
    "1.2.840.10008.1.2.4.57": "jpeg",  # Lossless, any predictor
    "1.2.840.10008.1.2.4.70": "jpeg",  # Lossless, first-order predictor
    "1.2.840.10008.1.2.4.80": "jpegls",  # lossless
    "1.2.840.10008.1.2.4.81": "jpegls",  # near-lossless
    "1.2.840.10008.1.2.4.90": "jpeg2k",  # lossless
    "1.2.840.10008.1.2.4.91": "jpeg2k",
    "1.2.840.10008.1.2.4.201": "htj2k",  # lossless
    "1.2.840.10008.1.2.4.202": "htj2k",  # lossless, RPCL
    "1.2.840.10008.1.2.4.203": "htj2k",
}
"""Transfer syntaxes with one codestream per frame, and the codec that reads it."""

LOSSY_SYNTAXES: Final = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 81))
MAYBE_LOSSY_SYNTAXES: Final = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (91, 203))


def transfer_syntax(header: Dataset) -> str:
    """Return the transfer syntax of a file.

    Raises:
        SeriesRejected: `UNSUPPORTED_TRANSFER_SYNTAX`.
    """
    uid = UID(str(header.file_meta.get("TransferSyntaxUID") or ""), validation_mode=config.IGNORE)
    if uid in NATIVE_SYNTAXES or uid in COMPRESSED_SYNTAXES:
        return str(uid)
    raise SeriesRejected(
        "UNSUPPORTED_TRANSFER_SYNTAX",
        f"found {uid.name if uid.is_valid else 'no valid transfer syntax'}; expected native, RLE, JPEG, JPEG-LS or "
        "JPEG 2000 pixels; convert it",
    )
