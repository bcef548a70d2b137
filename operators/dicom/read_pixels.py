"""The pixels of one file → its values exactly as stored, whatever the transfer syntax.

Native pixels are read from the file as they are (PS3.5 A.1, A.2, A.3, A.5). Compressed ones are one codestream in
fragments (A.4). Its own header must agree with DICOM's before anything is allocated or decoded; where the two disagree
in bits or sign so that it matters, the slice is rejected.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from operators.dicom.codestream import CodedFrame, bare_jpeg2k, has_all_tiles, jpeg2k_frame, jpeg_frame
from operators.dicom.pixel_data import locate_frame, read_beginning, read_frame
from operators.dicom.pixel_format import PixelFormat
from operators.dicom.plain_file import rejected
from operators.dicom.transfer_syntaxes import COMPRESSED_SYNTAXES, NATIVE_SYNTAXES
from operators.instance import Frame, Instance

Stored = NDArray[np.integer[Any]]

CODESTREAM_FACTOR: Final = 2
CODESTREAM_SPARE_BYTES: Final = 1 << 16
"""A codestream longer than twice the plain bytes plus this is invalid: noise grows by a tenth, RLE by a hundredth."""

CODED_HEADER_BYTES: Final = 4096
"""Bytes of a codestream searched for its header before anything is decoded."""

RLE_EXPANSION: Final = 64
"""Two bytes of RLE expand to at most 128: a larger matrix is not allocated."""


def read_stored_values(instance: Instance, pixels: PixelFormat, buffer: bytearray | None = None) -> Stored:
    """Return the values of one slice as they are stored: (H, W), signed or unsigned integers in native byte order.

    Args:
        instance: the file, as `read_instance` returns it.
        pixels: its pixel format.
        buffer: memory for native pixels, if they fit: the values are then a view of it, valid until it is used again.

    Raises:
        SeriesRejected: `MISSING_PIXELS`, `TRUNCATED_PIXELS`, `UNDECODABLE_PIXELS`, `UNSUPPORTED_PIXELS` or
            `BITS_MISMATCH`.
        SeriesFailed: `FILE_CHANGED`: the file has changed since its header was read.
        OSError: the file cannot be read.
    """
    frame = locate_frame(instance, pixels)
    if pixels.transfer_syntax in NATIVE_SYNTAXES:
        return _native(read_frame(instance, frame, buffer), pixels)
    _check_length(instance, pixels, frame)
    return _decoded(instance, pixels, bytes(read_frame(instance, frame)))


def locate_checked(instance: Instance, pixels: PixelFormat) -> Instance:
    """Return the instance with the position of its pixels, after checking all that can be checked without decoding.

    That is their length and the header of a codestream.

    Raises:
        SeriesRejected, SeriesFailed, OSError: see `read_stored_values`.
    """
    frame = locate_frame(instance, pixels)
    if pixels.transfer_syntax in COMPRESSED_SYNTAXES:
        length = _check_length(instance, pixels, frame)
        _coded_frame(instance, pixels, read_beginning(instance, frame, CODED_HEADER_BYTES), length)
    return replace(instance, frame=frame)


def _check_length(instance: Instance, pixels: PixelFormat, frame: Frame) -> int:
    """Return the length of a codestream in bytes, checked before it is read."""
    length = sum(length for _, length in frame.spans)
    limit = CODESTREAM_FACTOR * pixels.native_bytes + CODESTREAM_SPARE_BYTES
    if length > limit:
        raise rejected(instance, "UNDECODABLE_PIXELS", f"found more than {limit} bytes of compressed pixels")
    size = pixels.rows * pixels.columns
    if COMPRESSED_SYNTAXES[pixels.transfer_syntax] == "rle" and size > RLE_EXPANSION * length:
        raise rejected(instance, "UNDECODABLE_PIXELS", f"found {length} bytes of RLE for {size} values")
    return length


def _native(value: memoryview, pixels: PixelFormat) -> Stored:
    kind = f"{NATIVE_SYNTAXES[pixels.transfer_syntax]}{'i' if pixels.signed else 'u'}{pixels.bits_allocated // 8}"
    stored = np.frombuffer(value, kind).reshape(pixels.rows, pixels.columns)
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)


def _coded_frame(instance: Instance, pixels: PixelFormat, first: bytes, length: int) -> CodedFrame | None:
    """Return a codestream's own header, which must agree with DICOM's; None for RLE, and where it comes later.

    Args:
        instance: the slice, for messages.
        pixels: the pixel format according to DICOM.
        first: the codestream, or its beginning.
        length: length of the whole codestream in bytes.
    """
    codec = COMPRESSED_SYNTAXES[pixels.transfer_syntax]
    if codec == "rle":
        _rle_segments(instance, pixels, first, length)
        return None
    frame = jpeg2k_frame(bare_jpeg2k(first)) if codec in ("jpeg2k", "htj2k") else jpeg_frame(first)
    if frame is None:
        if len(first) < length:
            return None
        raise rejected(instance, "UNDECODABLE_PIXELS", f"found no {codec} header in the compressed pixels")
    if (frame.rows, frame.columns, frame.components) != (pixels.rows, pixels.columns, 1):
        found = f"found {frame.rows} × {frame.columns} × {frame.components} in the compressed pixels"
        raise rejected(instance, "UNDECODABLE_PIXELS", f"{found}, expected {pixels.rows} × {pixels.columns} × 1")
    return frame


def _decoded(instance: Instance, pixels: PixelFormat, codestream: bytes) -> Stored:
    codec = COMPRESSED_SYNTAXES[pixels.transfer_syntax]
    jpeg2k = codec in ("jpeg2k", "htj2k")
    if jpeg2k:
        codestream = bare_jpeg2k(codestream)
    frame = _coded_frame(instance, pixels, codestream, len(codestream))
    if frame is None:
        return _decoded_rle(instance, pixels, codestream)
    # A codestream ends with this marker; padding follows. Decoders silently fill up what is missing.
    if b"\xff\xd9" not in codestream[-16:] or (jpeg2k and not has_all_tiles(codestream)):
        raise rejected(instance, "TRUNCATED_PIXELS", "the compressed pixels end too early")
    decoded = _run(instance, _decoder(codec), codestream)
    if decoded.shape != (pixels.rows, pixels.columns):
        raise rejected(instance, "UNDECODABLE_PIXELS", f"decoded to {decoded.shape}, expected rows × columns")
    return _as_declared(instance, pixels, frame, decoded)


def _decoded_rle(instance: Instance, pixels: PixelFormat, codestream: bytes) -> Stored:
    """Decode RLE Lossless (PS3.5 G): one segment of PackBits for each byte of a value, high byte first.

    The segments are cut out here: decoders of the whole trust the offsets, and broken ones killed the process
        (fuzzing).
    """
    import imagecodecs

    count, size = pixels.bits_allocated // 8, pixels.rows * pixels.columns
    ends = _rle_segments(instance, pixels, codestream, len(codestream))
    values = np.empty((size, count), np.uint8)
    for place, (start, end) in enumerate(pairwise(ends)):
        plane = np.empty(size, np.uint8)  # the exact size: anything beyond is not unpacked
        unpack = partial(imagecodecs.packbits_decode, out=plane.data)
        found_values = len(_run(instance, unpack, codestream[start:end])) if start < end else 0
        if found_values != size:
            found = f"found {found_values} values in an RLE segment, expected {pixels.rows} × {pixels.columns}"
            raise rejected(instance, "UNDECODABLE_PIXELS", found)
        values[:, count - 1 - place] = plane
    return values.view(f"<{'i' if pixels.signed else 'u'}{count}").reshape(pixels.rows, pixels.columns)


def _rle_segments(instance: Instance, pixels: PixelFormat, first: bytes, length: int) -> list[int]:
    """Return where the first segment begins and where each one ends."""
    count = pixels.bits_allocated // 8
    table = struct.unpack_from("<16I", first) if len(first) >= 64 else (0,) * 16
    ends = [*table[1 : 1 + count], length]
    if table[0] != count or ends[0] != 64 or ends != sorted(ends):
        found = f"found a broken header of {table[0]} RLE segments, expected {count}"
        raise rejected(instance, "UNDECODABLE_PIXELS", found)
    return ends


def _decoder(codec: str) -> Callable[[bytes], Any]:
    """Return libjpeg-turbo for all JPEG, CharLS for JPEG-LS, OpenJPEG for JPEG 2000 including high throughput."""
    import imagecodecs

    if codec == "jpeg":
        return imagecodecs.jpeg8_decode
    if codec == "jpegls":
        return imagecodecs.jpegls_decode
    return imagecodecs.jpeg2k_decode


def _run(instance: Instance, decode: Callable[[Any], Any], codestream: Any) -> Any:
    try:
        return decode(codestream)
    except (RuntimeError, ValueError, TypeError, IndexError, OverflowError, struct.error, zlib.error) as error:
        found = f"the decoder gives up on the compressed pixels ({type(error).__name__})"
        raise rejected(instance, "UNDECODABLE_PIXELS", found) from error


def _as_declared(instance: Instance, pixels: PixelFormat, frame: CodedFrame, decoded: Stored) -> Stored:
    """Return values with the sign that DICOM declares, where the codestream leaves no doubt about it.

    JPEG and JPEG-LS have no sign: a negative value is stored as two's complement in the bits of the codestream or in
    Bits Stored. Where the codestream has fewer bits, and for JPEG 2000 with the other sign, every reading of the values
    is tried, and a slice is accepted only if they agree. Where it has more bits, these are the cells of PS3.5 8.1.1.
    """
    readings: list[Stored] = [decoded]
    if frame.signed and not pixels.signed:
        readings.append(decoded.astype(np.int64) & ((1 << frame.precision) - 1))
    if pixels.signed and not frame.signed:
        widths = sorted({frame.precision, max(frame.precision, pixels.bits_stored)})
        readings = [_two_complement(decoded, width) for width in widths]
        if COMPRESSED_SYNTAXES[pixels.transfer_syntax] in ("jpeg2k", "htj2k"):
            readings.append(decoded)
    if any(not np.array_equal(readings[0], other) for other in readings[1:]):
        found = f"{'signed' if frame.signed else 'unsigned'} values of {frame.precision} bits in the compressed pixels"
        declared = f"{'signed' if pixels.signed else 'unsigned'} values of {pixels.bits_stored} bits in the header"
        raise rejected(instance, "BITS_MISMATCH", f"found {found} and {declared}, which are ambiguous")
    return readings[0]


def _two_complement(values: Stored, bits: int) -> Stored:
    if values.dtype.itemsize * 8 == bits:
        return values.view(f"i{values.dtype.itemsize}")
    half = 1 << (bits - 1)
    return (((values.astype(np.int64) & (2 * half - 1)) ^ half) - half).astype(np.int32)
