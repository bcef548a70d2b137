"""Bytes → whether they are a DICOM file, and a deflated one as a plain one."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO, Final

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

MAX_INFLATED_BYTES: Final = 1 << 28
"""A deflated file may have 256 MiB, and unfold to as many: a slice of 512² has half of one, and deflate can reach
1000 : 1. To unfold it takes up to four times that."""

NUMBER_VRS: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
"""VRs of binary numbers, with their format in `struct`."""

TEXT_VRS: Final = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}


def is_dicom(first: bytes) -> bool:
    """Whether a file that begins with these bytes is DICOM: by its prefix (PS3.10 7.1), else by its first two elements.

    Files without preamble begin with group 0002 or 0008. Two elements in ascending order, with lengths that fit, do not
    happen in text, images or archives.
    """
    if first[128:132] == b"DICM":
        return True
    # A prefix that is damaged is no reason to pass over a slice: the file then has an entry in the ledger.
    return any(_begins_with_elements(bytes_, order) for bytes_ in (first, first[132:]) for order in "<>")


def was_dicom(name: str, first: bytes) -> bool:
    """Whether a file that is no DICOM has the name of one; or is empty, or zeros, and numbered as slices are.

    Copies that were broken off and disks that were full leave such files.
    """
    if name.lower().endswith((".dcm", ".dicom", ".ima")):
        return True
    return name[-1:].isdigit() and not first.strip(b"\0")


def inflate(file: BinaryIO) -> bytes:
    """A deflated DICOM file (PS3.5 A.5) as an explicit VR little endian one, so that offsets are those of plain bytes.

    Raises:
        ValueError: where it has, or unfolds to, more than `MAX_INFLATED_BYTES`, or ends early.
        OSError: where the file cannot be read.
    """
    file.seek(0)
    data = memoryview(file.read(MAX_INFLATED_BYTES + 1))
    meta_length = struct.unpack_from("<I", data, 140)[0] if bytes(data[132:138]) == b"\2\0\0\0UL" else -1
    start = 144 + meta_length
    if not 144 <= start <= len(data) <= MAX_INFLATED_BYTES:
        raise ValueError("no group length, so no way to tell where the deflated part begins; or too large")
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = decompressor.decompress(data[start:], MAX_INFLATED_BYTES)
    if not decompressor.eof:
        raise ValueError(f"deflated data ends early, or unfolds to more than {MAX_INFLATED_BYTES >> 20} MiB")
    # Two UIDs of the same even length, thanks to the padding that UI allows.
    deflated, explicit = DeflatedExplicitVRLittleEndian.encode(), ExplicitVRLittleEndian.encode()
    return bytes(data[:start]).replace(deflated, explicit.ljust(len(deflated), b"\0"), 1) + plain


def _begins_with_elements(first: bytes, order: str) -> bool:
    place, before = 0, (0, 0)
    for _ in range(2):
        if len(first) < place + 12:
            return False
        tag = struct.unpack_from(f"{order}HH", first, place)
        vr, start = first[place + 4 : place + 6].decode("latin-1"), 8
        if vr == "OB":  # the second element of a file that begins with its meta information
            length, start = struct.unpack_from(f"{order}I", first, place + 8)[0], 12
        elif vr in TEXT_VRS or vr in NUMBER_VRS:
            length = struct.unpack_from(f"{order}H", first, place + 6)[0]
        elif order == "<":
            length = struct.unpack_from("<I", first, place + 4)[0]
        else:
            return False
        if tag[0] not in (0x0002, 0x0008) or tag <= before or length > 256:
            return False
        place, before = place + start + length, tag
    return True
