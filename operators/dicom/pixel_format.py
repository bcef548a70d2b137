"""What a header states about its stored pixel values, checked: how they are coded, and how they become HU.

Image Pixel module (PS3.3 C.7.6.3), CT Image module (C.8.2.1), padding (C.7.5.1.1.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from operators.dicom.transfer_syntaxes import COMPRESSED_SYNTAXES, NATIVE_SYNTAXES, transfer_syntax
from operators.dicom.values import numbers_in, text_in
from operators.errors import SeriesRejected

AIR_HU: Final = -1000
"""HU that padding is set to: air, by the definition of the Hounsfield unit."""

MAX_SIDE: Final = 8192
"""Limit for rows and columns: CT matrices end at 2048, and 8192² values of 16 bits are 128 MiB."""

TOP_OF_CT_HU: Final = 3071
"""Highest HU of the 12 bits of ordinary CT; values above it can be padding, values below may be metal."""


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the pixels of one slice are stored.

    Attributes:
        rows: height H of the slice.
        columns: width W of the slice.
        bits_allocated: 8, 16 or 32 for each value.
        bits_stored: number of bits that carry the value.
        high_bit: the highest of these, counted from 0; `bits_stored` - 1 where the value lies in the low bits.
        signed: two's complement rather than unsigned.
        slope: HU per step of the stored value, > 0.
        intercept: HU of the stored value 0.
        padding: lowest and highest stored value that is padding; None where none is declared.
        transfer_syntax: UID of the transfer syntax.
    """

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    slope: float
    intercept: float
    padding: tuple[int, int] | None
    transfer_syntax: str

    @property
    def native_bytes(self) -> int:
        """Length of the pixels in bytes where they are not compressed."""
        return self.rows * self.columns * self.bits_allocated // 8

    @property
    def stored_range(self) -> tuple[int, int]:
        """Lowest and highest value that Bits Stored and Pixel Representation allow."""
        if self.signed:
            return -(1 << self.bits_stored - 1), (1 << self.bits_stored - 1) - 1
        return 0, (1 << self.bits_stored) - 1


def pixel_format(header: Dataset) -> PixelFormat:
    """Return the format of one slice.

    Raises:
        SeriesRejected: `UNSUPPORTED_TRANSFER_SYNTAX`, `UNSUPPORTED_PIXELS`, `MISSING_RESCALE`, `INVALID_RESCALE` or
            `AMBIGUOUS_PADDING`.
    """
    syntax = transfer_syntax(header)
    rows, columns = _matrix(header)
    allocated, stored, high, signed = _bits(header, syntax)
    slope, intercept = _rescale(header)
    padding = _padding(header, allocated, signed, slope, intercept)
    return PixelFormat(rows, columns, allocated, stored, high, signed, slope, intercept, padding, syntax)


def _matrix(header: Dataset) -> tuple[int, int]:
    samples, frames = _integer(header, "SamplesPerPixel", 1), _integer(header, "NumberOfFrames", 1)
    photometric = (text_in(header, "PhotometricInterpretation") or "MONOCHROME2").upper()
    if samples != 1 or photometric != "MONOCHROME2":
        raise _unsupported(f"{samples} samples of {photometric[:16]}", "one of MONOCHROME2")
    if frames != 1:
        raise _unsupported(f"{frames} frames", "one in a CT Image")
    rows, columns = _integer(header, "Rows"), _integer(header, "Columns")
    if rows is None or columns is None or not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE):
        raise _unsupported(f"{rows} rows × {columns} columns", f"1 to {MAX_SIDE} of each")
    return rows, columns


def _bits(header: Dataset, syntax: str) -> tuple[int, int, int, bool]:
    allocated = _integer(header, "BitsAllocated")
    stored = _integer(header, "BitsStored", allocated)
    high = _integer(header, "HighBit", None if stored is None else stored - 1)
    representation = _integer(header, "PixelRepresentation")
    if allocated not in (8, 16, 32) or stored is None or not 1 <= stored <= allocated:
        raise _unsupported(f"{stored} bits stored in {allocated}", "up to 8, 16 or 32 bits")
    whole_cells = syntax in NATIVE_SYNTAXES or COMPRESSED_SYNTAXES[syntax] == "rle"
    if high is None or not stored - 1 <= high < allocated or (high > stored - 1 and not whole_cells):
        raise _unsupported(f"HighBit {high} with {stored} of {allocated} bits stored", f"{stored - 1}")
    if representation not in (0, 1):
        raise _unsupported(f"PixelRepresentation {representation}", "0 or 1")
    if NATIVE_SYNTAXES.get(syntax) == ">" and allocated == 8:
        raise _unsupported("8-bit values in a big-endian file", "16 or 32 bits: whether bytes are swapped is not known")
    return allocated, stored, high, representation == 1


def _rescale(header: Dataset) -> tuple[float, float]:
    slopes, intercepts = numbers_in(header, "RescaleSlope"), numbers_in(header, "RescaleIntercept")
    if len(slopes) != 1 or len(intercepts) != 1:
        names = [name for name, found in (("slope", slopes), ("intercept", intercepts)) if len(found) != 1]
        raise SeriesRejected(
            "MISSING_RESCALE",
            f"no rescale {' and '.join(names)} in a slice; expected both: without them the values are not HU",
        )
    slope, intercept = slopes[0], intercepts[0]
    if not (math.isfinite(slope) and math.isfinite(intercept) and slope > 0):
        raise SeriesRejected(
            "INVALID_RESCALE", f"found rescale slope {slope:g} and intercept {intercept:g}; expected a slope above zero"
        )
    return slope, intercept


def _padding(header: Dataset, allocated: int, signed: bool, slope: float, intercept: float) -> tuple[int, int] | None:
    """Return the range of stored values that are padding, in the signedness of the pixels.

    The value is often stored with the other signedness: 63536 for -2000. According to the standard, native pixels never
    equal the padding value; but where it is a value of tissue (0 HU, say), that cannot be relied on, and either reading
    would be wrong somewhere.
    """
    value = _integer(header, "PixelPaddingValue")
    if value is None:
        return None
    limit = _integer(header, "PixelPaddingRangeLimit", value)
    ends = sorted(_in_representation(end, allocated, signed) for end in (value, limit if limit is not None else value))
    low_hu, high_hu = (end * slope + intercept for end in ends)
    if high_hu > AIR_HU and low_hu <= TOP_OF_CT_HU:
        raise SeriesRejected(
            "AMBIGUOUS_PADDING",
            f"padding is declared as {low_hu:g} to {high_hu:g} HU, where tissue is; expected at most {AIR_HU} or above "
            f"{TOP_OF_CT_HU} HU",
        )
    return ends[0], ends[1]


def _in_representation(value: int, allocated: int, signed: bool) -> int:
    value %= 1 << allocated
    return value - (1 << allocated) if signed and value >> (allocated - 1) else value


def _integer(header: Dataset, keyword: str, default: int | None = None) -> int | None:
    """Return an integer; the default where it is missing, None where the value is not an integer."""
    found = numbers_in(header, keyword)
    if len(found) != 1:
        return default
    return int(found[0]) if found[0].is_integer() else None


def _unsupported(found: str, expected: str) -> SeriesRejected:
    return SeriesRejected("UNSUPPORTED_PIXELS", f"found {found}; expected {expected}; convert the series")
