"""One file → one slice in HU: stored values, padding to air, rescale, int16.

HU are rounded half to even where slope or intercept are fractional, and clipped to the range of int16; never wrapped.
"""

from __future__ import annotations

import threading
from typing import Final

import numpy as np
from numpy.typing import NDArray

from operators.dicom.pixel_format import AIR_HU, PixelFormat, pixel_format
from operators.dicom.plausible_hu import histogram_of
from operators.dicom.read_pixels import Stored, read_stored_values
from operators.instance import Instance
from operators.types import Finding, HuSlice

LOWEST_HU: Final = -1024
"""Lowest HU of the CT scale: 12 bits with intercept -1024. Anything below lies outside the scan circle (where scanners
write -1500, -2000, -2048 or -3024) or is noise in air, and is set to air."""

BUFFER_BYTES: Final = 2 << 20
"""A slice of 1024² with two bytes per voxel."""

_INT16: Final = np.iinfo(np.int16)
_OF_THREAD: Final = threading.local()


def decode_slice(instance: Instance, pixels: PixelFormat | None = None) -> HuSlice:
    """Decode one slice.

    Args:
        instance: the file, as `read_instance` returns it.
        pixels: its pixel format, where it is already known.

    Returns:
        int16 HU, (H, W), rows and columns as stored, with the findings `PIXEL_PADDING`, `UNUSED_BITS_MASKED`,
        `BELOW_CT_SCALE` and `HU_SATURATED` where they apply.

    Raises:
        SeriesRejected: see `pixel_format` and `read_stored_values`.
        SeriesFailed: `FILE_CHANGED`.
        OSError: the file cannot be read.
    """
    pixels = pixels or pixel_format(instance.header)
    return to_hu(read_stored_values(instance, pixels, _buffer()), pixels)


def _buffer() -> bytearray:
    """Return the buffer for stored values, one per thread: `to_hu` makes its own array from it."""
    kept: bytearray | None = getattr(_OF_THREAD, "buffer", None)
    if kept is None:
        kept = _OF_THREAD.buffer = bytearray(BUFFER_BYTES)
    return kept


def to_hu(stored: Stored, pixels: PixelFormat) -> HuSlice:
    """Return the stored values of one slice, (H, W), as int16 HU."""
    stored, padding, findings = _values(stored, pixels)
    low, high = int(stored.min()), int(stored.max())
    hu, saturated = _rescaled(stored, low, high, pixels)
    if saturated:
        findings.append(Finding("HU_SATURATED", f"HU outside {_INT16.min} to {_INT16.max} clipped"))
    histogram = histogram_of(hu, padding)
    if padding is not None:
        np.copyto(hu, AIR_HU, where=padding)
    if low * pixels.slope + pixels.intercept < LOWEST_HU:
        below = hu < LOWEST_HU
        if below.any():
            np.copyto(hu, AIR_HU, where=below)
            findings.append(Finding("BELOW_CT_SCALE", f"HU below {LOWEST_HU} set to {AIR_HU}"))
    return HuSlice(hu, tuple(findings), histogram)


def _values(stored: Stored, pixels: PixelFormat) -> tuple[Stored, NDArray[np.bool_] | None, list[Finding]]:
    """Return values from their own bits, a mask of declared padding (None without any) and what was found."""
    findings: list[Finding] = []
    low_bits = pixels.high_bit + 1 == pixels.bits_stored
    # Padding may lie outside the bits of a value, so it is searched for in whole cells too.
    padding = _padding(stored, pixels) if low_bits else None
    if padding is not None:
        stored = _without_odd_padding(stored, padding, pixels)
    lowest, highest = pixels.stored_range
    if not low_bits or stored.min() < lowest or stored.max() > highest:
        stored, masked = _value_bits(stored, pixels)
        if masked:
            detail = f"bits outside the value's {pixels.bits_stored} bits are not its sign; ignored"
            findings.append(Finding("UNUSED_BITS_MASKED", detail))
        padding = _either(padding, _padding(stored, pixels))
    if padding is not None:
        detail = f"declared padding, stored as {_range(pixels)}, set to {AIR_HU} HU"
        findings.insert(0, Finding("PIXEL_PADDING", detail))
    return stored, padding, findings


def _padding(stored: Stored, pixels: PixelFormat) -> NDArray[np.bool_] | None:
    """Return the mask of declared padding; None where there is none."""
    if pixels.padding is None:
        return None
    low, high = pixels.padding
    mask = stored == low if low == high else (stored >= low) & (stored <= high)
    return mask if mask.any() else None


def _without_odd_padding(stored: Stored, padding: NDArray[np.bool_], pixels: PixelFormat) -> Stored:
    """Replace padding that cannot be a value, in bits or in HU, by a value of the slice, so it causes no mismatch."""
    ends = pixels.padding or (0, 0)
    lowest, highest = pixels.stored_range
    in_hu = [end * pixels.slope + pixels.intercept for end in ends]
    if lowest <= ends[0] and ends[1] <= highest and _INT16.min <= in_hu[0] and in_hu[1] <= _INT16.max:
        return stored
    image = stored[~padding]
    return np.where(padding, image.min() if image.size else stored.dtype.type(0), stored)


def _value_bits(stored: Stored, pixels: PixelFormat) -> tuple[Stored, bool]:
    """Return the value's own bits (PS3.5 8.1.1), sign-extended, and whether other bits of the cells were set.

    Overlays used to be stored in those bits, before the standard forbade it.
    """
    shift = pixels.high_bit + 1 - pixels.bits_stored
    cells = stored.astype(np.int64)
    values = (cells >> shift) & ((1 << pixels.bits_stored) - 1)
    if pixels.signed:
        half = 1 << (pixels.bits_stored - 1)
        values = (values ^ half) - half
    return values.astype(stored.dtype), bool((values << shift != cells).any())


def _either(first: NDArray[np.bool_] | None, second: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    if first is None or second is None:
        return second if first is None else first
    return first | second


def _rescaled(stored: Stored, low: int, high: int, pixels: PixelFormat) -> tuple[NDArray[np.int16], bool]:
    """Return HU, int16, and whether any had to be clipped."""
    slope, intercept = pixels.slope, pixels.intercept
    if slope.is_integer() and intercept.is_integer():
        lowest, highest = low * int(slope) + int(intercept), high * int(slope) + int(intercept)
        if _INT16.min <= lowest and highest <= _INT16.max:
            # Arithmetic modulo 2^16 is exact where the result fits, whatever the intermediate values.
            low_bits = stored.view(np.int16) if stored.dtype.itemsize == 2 else stored.astype(np.int16)
            if slope == 1:
                return low_bits + _modulo_int16(int(intercept)), False
            hu = low_bits * _modulo_int16(int(slope))
            hu += _modulo_int16(int(intercept))
            return hu, False
    with np.errstate(over="ignore"):  # an absurd slope gives infinity, which is clipped like the rest
        exact = np.rint(stored * np.float64(slope) + np.float64(intercept))
    clipped = np.clip(exact, _INT16.min, _INT16.max)
    return clipped.astype(np.int16), bool((clipped != exact).any())


def _modulo_int16(value: int) -> np.int16:
    return np.int16((value + (1 << 15)) % (1 << 16) - (1 << 15))


def _range(pixels: PixelFormat) -> str:
    low, high = pixels.padding or (0, 0)
    return f"{low}" if low == high else f"{low} to {high}"
