"""What a JPEG, JPEG-LS or JPEG 2000 codestream states about itself, for comparison with the DICOM header."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

MAX_TILES: Final = 4096
"""Limit for JPEG 2000: tiles of 128² in the largest matrix. OpenJPEG allocates memory per tile before it decodes: for
42,025 tiles of 40² it took 800 MB."""

_SOC_SIZ: Final = b"\xff\x4f\xff\x51"
_SOT: Final = 0xFF90


@dataclass(frozen=True, slots=True)
class CodedFrame:
    """What a codestream states about itself."""

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool


def jpeg_frame(codestream: bytes) -> CodedFrame | None:
    """Return the frame header of JPEG or JPEG-LS (ITU-T T.81 B.2.2, T.87 C.2.2); None where it has none."""
    place = 2
    while codestream[:2] == b"\xff\xd8" and place + 10 <= len(codestream) and codestream[place] == 0xFF:
        marker, length = codestream[place + 1], struct.unpack_from(">H", codestream, place + 2)[0]
        if marker == 0xFF:
            place += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            precision, rows, columns, components = struct.unpack_from(">BHHB", codestream, place + 4)
            return CodedFrame(rows, columns, components, precision, False)
        # Markers without a length do not occur here: a decoder would go on elsewhere and find another frame header.
        if marker <= 0x01 or 0xD0 <= marker <= 0xDA or length < 2:
            return None
        place += 2 + length
    return None


def bare_jpeg2k(codestream: bytes) -> bytes:
    """Strip a JP2 header, which PS3.5 A.4.4 forbids: what is checked must be what is decoded."""
    return codestream[max(0, codestream.find(_SOC_SIZ)) :] if codestream[4:8] == b"jP  " else codestream


def jpeg2k_frame(codestream: bytes) -> CodedFrame | None:
    """Return the SIZ segment of JPEG 2000 (ITU-T T.800 A.5.1)."""
    if codestream[:4] != _SOC_SIZ or len(codestream) < 43:
        return None
    right, bottom, left, top = struct.unpack_from(">IIII", codestream, 8)
    components, depth = struct.unpack_from(">HB", codestream, 40)
    return CodedFrame(bottom - top, right - left, components, (depth & 0x7F) + 1, depth >> 7 == 1)


def has_all_tiles(codestream: bytes) -> bool:
    """Return whether a JPEG 2000 codestream contains a complete part of each of its tiles (T.800 A.4.2, B.3).

    OpenJPEG leaves a missing tile black without reporting it.
    """
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", codestream, 8)
    if min(width, height) == 0 or right <= left or bottom <= top:
        return False
    tiles = -(-(right - left) // width) * -(-(bottom - top) // height)
    if tiles > MAX_TILES:
        return False
    tiles_found: set[int] = set()
    place = 2
    while place + 12 <= len(codestream):
        marker, length = struct.unpack_from(">HH", codestream, place)
        if marker == _SOT:
            tile, part = struct.unpack_from(">HI", codestream, place + 4)
            tiles_found.add(tile)
            place += part or len(codestream) - place  # the length of the last part may be left open
            if place > len(codestream) or 0 < part < 12:
                return False
        elif tiles_found or marker >> 8 != 0xFF:
            break
        else:
            place += 2 + length
    return tiles_found == set(range(tiles))
