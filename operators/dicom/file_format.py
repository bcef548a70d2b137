"""Whether bytes are a DICOM file; and a deflated file as a plain one."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO, Final

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

MAX_INFLATED_BYTES: Final = 1 << 28
"""Limit for a deflated file, 256 MiB, before and after inflation: a slice of 512² has 0.5 MiB, and deflate can reach
1000 : 1. Inflation takes up to four times that memory."""

MAX_EXPANSION: Final = 100
FREE_BYTES: Final = 1 << 26
"""A file may inflate to 64 MiB, or to a hundred times its size: 33 kB that inflate to 256 MiB take 1.6 s."""

NUMBER_VRS: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
"""VRs of binary numbers, with their format in `struct`."""

SEQUENCE_AND_BYTE_VRS: Final = {"AT", "OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UN"}

TEXT_VRS: Final = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}


_VRS: Final = {*NUMBER_VRS, *TEXT_VRS, *SEQUENCE_AND_BYTE_VRS}
_NATIVE: Final = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian}
)


def is_dicom(first: bytes) -> bool:
    """Return whether a file beginning with these bytes is DICOM, by its prefix (PS3.10 7.1) or its first two elements.

    Files without preamble begin with group 0002 or 0008. Two elements in ascending order with lengths that fit do not
    occur in text, images or archives.
    """
    if first[128:132] == b"DICM":
        return True
    # A damaged prefix is no reason to ignore a slice: the file then becomes an entry of the ledger.
    return any(_begins_with_elements(bytes_, order) for bytes_ in (first, first[132:]) for order in "<>")


def was_dicom(name: str, first: bytes) -> bool:
    """Return whether a file that is not DICOM is named as one, or is empty or zeros and numbered as slices are.

    Interrupted copies and full disks leave such files.
    """
    if name.lower().endswith((".dcm", ".dicom", ".ima")):
        return True
    return name[-1:].isdigit() and not first.strip(b"\0")


def found_encoding(first: bytes, implicit: bool, little: bool) -> tuple[bool, bool]:
    """Return whether a data set is implicit VR and little endian, judged by its first element.

    Files are relabelled and forwarded without being rewritten, so the meta information may be wrong.

    Args:
        first: the first 6 bytes of the data set.
        implicit: what the transfer syntax says; used where the bytes do not tell.
        little: likewise.
    """
    groups = int.from_bytes(first[:2], "little"), int.from_bytes(first[:2], "big")
    if len(first) < 6 or groups[0] == groups[1]:
        return implicit, little
    found_little, found_implicit = groups[0] < groups[1], first[4:6].decode("latin-1") not in _VRS
    # Implicit VR big endian does not exist: such bytes are something else.
    return (found_implicit, found_little) if found_little or not found_implicit else (implicit, little)


def found_syntax(label: str, implicit: bool, little: bool) -> str:
    """Return the transfer syntax that follows from a label and the encoding that was found."""
    if label and label not in _NATIVE:
        return label  # it names a codec, about which the data set's encoding tells nothing
    return str(ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian)


def is_deflated(first: bytes) -> bool:
    """Return whether a file is deflated: its label says so, and no plain element of group 0008 follows."""
    if DeflatedExplicitVRLittleEndian.encode() not in first[:1024]:
        return False
    start = _deflated_start(first)
    # No encoder's block begins so: a stored block has 00 08 as half of its length, followed by the complement.
    return first[start : start + 2] not in (b"\x08\0", b"\0\x08") or first[start + 3 : start + 5] == b"\xf7\xff"


def labelled_explicit(data: bytes) -> bytes:
    """Return a file labelled as deflated as one labelled explicit VR little endian."""
    # The two UIDs have the same even length, thanks to the padding of UI.
    deflated, explicit = DeflatedExplicitVRLittleEndian.encode(), ExplicitVRLittleEndian.encode()
    return data.replace(deflated, explicit.ljust(len(deflated), b"\0"), 1)


def inflate(file: BinaryIO) -> bytes:
    """Return a deflated DICOM file (PS3.5 A.5) as explicit VR little endian, so that offsets refer to plain bytes.

    Raises:
        ValueError: the file is or inflates to more than the limit, or ends early.
        OSError: the file cannot be read.
    """
    file.seek(0)
    data = memoryview(file.read(MAX_INFLATED_BYTES + 1))
    start = _deflated_start(data)
    if not 144 <= start <= len(data) <= MAX_INFLATED_BYTES:
        raise ValueError("no group length, so the start of the deflated part is unknown; or the file is too large")
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    most = min(MAX_INFLATED_BYTES, max(FREE_BYTES, MAX_EXPANSION * len(data)))
    plain = decompressor.decompress(data[start:], most)
    if not decompressor.eof:
        raise ValueError(f"deflated data ends early or inflates to more than {most >> 20} MiB")
    return labelled_explicit(bytes(data[:start])) + plain


def _deflated_start(data: bytes | memoryview) -> int:
    """Return where the data set begins, according to the group length; 143 where it is missing."""
    return 144 + (struct.unpack_from("<I", data, 140)[0] if bytes(data[132:138]) == b"\2\0\0\0UL" else -1)


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
