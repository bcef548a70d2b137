"""Bytes → whether they are a DICOM file, and a deflated one as a plain one."""

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
"""A deflated file may have 256 MiB, and unfold to as many: a slice of 512² has half of one, and deflate can reach
1000 : 1. To unfold it takes up to four times that."""

MAX_EXPANSION: Final = 100
FREE_BYTES: Final = 1 << 26
"""It may unfold to 64 MiB, or to a hundred times its size: 33 kB that unfold to 256 MiB take 1.6 s."""

NUMBER_VRS: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
"""VRs of binary numbers, with their format in `struct`."""

SEQUENCE_AND_BYTE_VRS: Final = {"AT", "OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UN"}

TEXT_VRS: Final = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}


_VRS: Final = {*NUMBER_VRS, *TEXT_VRS, *SEQUENCE_AND_BYTE_VRS}
_NATIVE: Final = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian}
)


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
    """Return whether a file that is no DICOM has the name of one; or is empty, or zeros, and numbered as slices are.

    Copies that were broken off and disks that were full leave such files.
    """
    if name.lower().endswith((".dcm", ".dicom", ".ima")):
        return True
    return name[-1:].isdigit() and not first.strip(b"\0")


def found_encoding(first: bytes, implicit: bool, little: bool) -> tuple[bool, bool]:
    """Return whether a data set is implicit VR and little endian, as its first element shows.

    Files are relabelled and forwarded without being rewritten, so the meta information may say something else.

    Args:
        first: the first 6 bytes of the data set.
        implicit: what the transfer syntax says; it counts where the bytes say nothing.
        little: likewise.
    """
    groups = int.from_bytes(first[:2], "little"), int.from_bytes(first[:2], "big")
    if len(first) < 6 or groups[0] == groups[1]:
        return implicit, little
    found_little, found_implicit = groups[0] < groups[1], first[4:6].decode("latin-1") not in _VRS
    # There is no implicit VR big endian: such bytes are something else.
    return (found_implicit, found_little) if found_little or not found_implicit else (implicit, little)


def found_syntax(label: str, implicit: bool, little: bool) -> str:
    """Return the transfer syntax that a label and the encoding that was found give together."""
    if label and label not in _NATIVE:
        return label  # it names a codec, of which the data set's encoding says nothing
    return str(ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian)


def is_deflated(first: bytes) -> bool:
    """Return whether a file is deflated: it says so, and does not go on with a plain element of group 0008."""
    if DeflatedExplicitVRLittleEndian.encode() not in first[:1024]:
        return False
    start = _deflated_start(first)
    # No encoder's block begins so: a stored one has bytes 00 08 as half of its length, and the complement after it.
    return first[start : start + 2] not in (b"\x08\0", b"\0\x08") or first[start + 3 : start + 5] == b"\xf7\xff"


def labelled_explicit(data: bytes) -> bytes:
    """Return a file that calls itself deflated as one that calls itself explicit VR little endian."""
    # Two UIDs of the same even length, thanks to the padding that UI allows.
    deflated, explicit = DeflatedExplicitVRLittleEndian.encode(), ExplicitVRLittleEndian.encode()
    return data.replace(deflated, explicit.ljust(len(deflated), b"\0"), 1)


def inflate(file: BinaryIO) -> bytes:
    """A deflated DICOM file (PS3.5 A.5) as an explicit VR little endian one, so that offsets are those of plain bytes.

    Raises:
        ValueError: where it has, or unfolds to, more than it may, or ends early.
        OSError: where the file cannot be read.
    """
    file.seek(0)
    data = memoryview(file.read(MAX_INFLATED_BYTES + 1))
    start = _deflated_start(data)
    if not 144 <= start <= len(data) <= MAX_INFLATED_BYTES:
        raise ValueError("no group length, so no way to tell where the deflated part begins; or too large")
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    most = min(MAX_INFLATED_BYTES, max(FREE_BYTES, MAX_EXPANSION * len(data)))
    plain = decompressor.decompress(data[start:], most)
    if not decompressor.eof:
        raise ValueError(f"deflated data ends early, or unfolds to more than {most >> 20} MiB")
    return labelled_explicit(bytes(data[:start])) + plain


def _deflated_start(data: bytes | memoryview) -> int:
    """Return where the data set begins, by the group length; 143 where there is none."""
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
