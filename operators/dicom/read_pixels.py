"""The pixels of one file → its stored values, exactly as they were stored, whatever the transfer syntax.

Native pixels are taken from the file as they stand (PS3.5 A.1, A.2, A.3, A.5). Compressed ones are one codestream in
fragments (A.4); its own header must agree with DICOM's before anything is allocated or decoded, and where the two
disagree in bits or sign, and it matters, the slice is rejected.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import DeflatedExplicitVRLittleEndian

from operators.dicom.codestream import CodedFrame, bare_jpeg2k, has_all_tiles, jpeg2k_frame, jpeg_frame
from operators.dicom.file_format import inflate
from operators.dicom.frame_pixels import check_unchanged, named, read_frame
from operators.dicom.pixel_format import COMPRESSED_SYNTAXES, NATIVE_SYNTAXES, PixelFormat
from operators.errors import SeriesFailed, SeriesRejected
from operators.instance import Instance

Stored = NDArray[np.integer[Any]]

_PIXEL_DATA: Final = (0x7FE0, 0x0010)
_ITEM: Final = (0xFFFE, 0xE000)
_END: Final = (0xFFFE, 0xE0DD)
_UNDEFINED: Final = 0xFFFFFFFF

CODESTREAM_FACTOR: Final = 2
CODESTREAM_SPARE_BYTES: Final = 1 << 16
"""A codestream of more than twice the plain bytes, and this, is none: noise grows by a tenth, RLE by a hundredth."""

RLE_EXPANSION: Final = 64
"""Two bytes of RLE make 128 at the most: a matrix beyond that is not allocated."""


def read_stored_values(instance: Instance, pixels: PixelFormat, buffer: bytearray | None = None) -> Stored:
    """The values of one slice as they are stored: (H, W), signed or unsigned integers in native byte order.

    Args:
        instance: as `read_instance` gives it.
        pixels: its format.
        buffer: where the bytes of native pixels are put, if they fit: the values are then a view of it, until it is
            used again. Memory that is asked for anew for each slice costs more than reading it.

    Raises:
        SeriesRejected: `MISSING_PIXELS`, `TRUNCATED_PIXELS`, `UNDECODABLE_PIXELS`, `UNSUPPORTED_PIXELS` or
            `BITS_MISMATCH`.
        SeriesFailed: `FILE_CHANGED`, where the file is no longer what it was when its header was read.
        OSError: where the file cannot be read.
    """
    if instance.pixel_offset is None:
        raise _rejected(instance, "MISSING_PIXELS", "the file ends before its pixels, or never had any")
    if pixels.transfer_syntax in NATIVE_SYNTAXES:
        return _native(instance, pixels, buffer)
    if instance.frame:
        return _decoded(instance, pixels, read_frame(instance, _codestream_limit(pixels)))
    return _decoded(instance, pixels, _codestream(instance, _pixel_element(instance, pixels, None), pixels))


def _codestream_limit(pixels: PixelFormat) -> int:
    return CODESTREAM_FACTOR * pixels.native_bytes + CODESTREAM_SPARE_BYTES


def _pixel_element(
    instance: Instance, pixels: PixelFormat, length: int | None, buffer: bytearray | None = None
) -> memoryview:
    """Value of Pixel Data: `length` bytes of it, or, where it is encapsulated (None), as many as it may have."""
    offset = instance.pixel_offset or 0
    wanted = 12 + (_codestream_limit(pixels) if length is None else length)
    if pixels.transfer_syntax == DeflatedExplicitVRLittleEndian:
        with instance.path.open("rb") as plain:
            data = memoryview(_run(instance, inflate, plain))[offset : offset + wanted]
            check_unchanged(instance, plain)
    else:
        with instance.path.open("rb", buffering=0) as file:
            file.seek(offset)
            if length is not None and buffer is not None and wanted <= len(buffer):
                data = memoryview(buffer)[: file.readinto(memoryview(buffer)[:wanted])]
            else:
                data = memoryview(file.read(wanted) or b"")
            check_unchanged(instance, file)
    order = NATIVE_SYNTAXES.get(pixels.transfer_syntax, "<")
    if len(data) < 8:
        raise _rejected(instance, "TRUNCATED_PIXELS", "the file ends where its pixels begin")
    tag = struct.unpack_from(f"{order}HH", data)
    if tag != _PIXEL_DATA:
        if tag[0] == _PIXEL_DATA[0]:
            raise _rejected(instance, "UNSUPPORTED_PIXELS", "found pixels of floating point, expected integers")
        raise SeriesFailed("FILE_CHANGED", f"{named(instance)}: the file was changed while it was read; run again")
    # An implicit length cannot look like one of these: lengths are even, and O and U are odd.
    explicit = bytes(data[4:6]) in (b"OB", b"OW", b"UN")
    start = 12 if explicit else 8
    stated = struct.unpack_from(f"{order}I", data, start - 4)[0] if len(data) >= start else 0
    if (stated == _UNDEFINED) != (length is None):
        kind = "encapsulated" if stated == _UNDEFINED else "native"
        raise _rejected(instance, "UNDECODABLE_PIXELS", f"found {kind} pixels, expected what the transfer syntax says")
    if length is not None and stated < length:  # what is more is padding, and ignored (PS3.5 8.1.1)
        found = f"found {stated} bytes of pixels, expected {length} from rows × columns"
        raise _rejected(instance, "TRUNCATED_PIXELS", found)
    return data[start : None if length is None else start + length]


def _native(instance: Instance, pixels: PixelFormat, buffer: bytearray | None) -> Stored:
    if instance.frame:
        value = memoryview(read_frame(instance, pixels.native_bytes))
    else:
        value = _pixel_element(instance, pixels, pixels.native_bytes, buffer)
    if len(value) < pixels.native_bytes:
        found = f"found {len(value)} bytes of pixels, expected {pixels.native_bytes}: the file is cut off"
        raise _rejected(instance, "TRUNCATED_PIXELS", found)
    kind = f"{NATIVE_SYNTAXES[pixels.transfer_syntax]}{'i' if pixels.signed else 'u'}{pixels.bits_allocated // 8}"
    stored = np.frombuffer(value, kind).reshape(pixels.rows, pixels.columns)
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)


def _codestream(instance: Instance, value: memoryview, pixels: PixelFormat) -> bytes:
    """Join the fragments of a single frame (PS3.5 A.4); the first item is the offset table.

    Not by `pydicom.encaps`: for a 26 kB JPEG-LS frame this takes 3.2 µs, `generate_frames` 5.5 and `get_frame` 5.0.
    """
    fragments: list[memoryview] = []
    place = 0
    while place + 8 <= len(value):
        group, element, length = struct.unpack_from("<HHI", value, place)
        place += 8
        if (group, element) == _END:
            break
        if (group, element) != _ITEM or length == _UNDEFINED:
            raise _rejected(instance, "UNDECODABLE_PIXELS", "found no fragments in the encapsulated pixels")
        if place + length > _codestream_limit(pixels):
            raise _rejected(instance, "UNDECODABLE_PIXELS", f"found more than {len(value)} bytes of compressed pixels")
        if place + length > len(value):
            raise _rejected(instance, "TRUNCATED_PIXELS", "the file is cut off within its compressed pixels")
        fragments.append(value[place : place + length])
        place += length
    if len(fragments) < 2:
        raise _rejected(instance, "TRUNCATED_PIXELS", "the file is cut off before its compressed pixels")
    return b"".join(fragments[1:])


def _decoded(instance: Instance, pixels: PixelFormat, codestream: bytes) -> Stored:
    codec = COMPRESSED_SYNTAXES[pixels.transfer_syntax]
    if codec == "rle":
        return _decoded_rle(instance, pixels, codestream)
    jpeg2k = codec in ("jpeg2k", "htj2k")
    if jpeg2k:
        codestream = bare_jpeg2k(codestream)
    frame = (jpeg2k_frame if jpeg2k else jpeg_frame)(codestream)
    if frame is None:
        raise _rejected(instance, "UNDECODABLE_PIXELS", f"found no {codec} header in the compressed pixels")
    if (frame.rows, frame.columns, frame.components) != (pixels.rows, pixels.columns, 1):
        found = f"found {frame.rows} × {frame.columns} × {frame.components} in the compressed pixels"
        raise _rejected(instance, "UNDECODABLE_PIXELS", f"{found}, expected {pixels.rows} × {pixels.columns} × 1")
    # A codestream ends with this marker; what follows is padding. Decoders fill up what is missing, in silence.
    if b"\xff\xd9" not in codestream[-16:] or (jpeg2k and not has_all_tiles(codestream)):
        raise _rejected(instance, "TRUNCATED_PIXELS", "the compressed pixels end too early")
    decoded = _run(instance, _decoder(codec), codestream)
    if decoded.shape != (pixels.rows, pixels.columns):
        raise _rejected(instance, "UNDECODABLE_PIXELS", f"decoded to {decoded.shape}, expected rows × columns")
    return _as_declared(instance, pixels, frame, decoded)


def _decoded_rle(instance: Instance, pixels: PixelFormat, codestream: bytes) -> Stored:
    """RLE Lossless (PS3.5 G): one segment of PackBits for each byte of a value, high byte first.

    The segments are cut out here: decoders of the whole trust the offsets, and broken ones ended the process (fuzzing).
    """
    import imagecodecs

    count, size = pixels.bits_allocated // 8, pixels.rows * pixels.columns
    if size > RLE_EXPANSION * len(codestream):
        raise _rejected(instance, "UNDECODABLE_PIXELS", f"found {len(codestream)} bytes of RLE for {size} values")
    table = struct.unpack_from("<16I", codestream) if len(codestream) >= 64 else (0,) * 16
    ends = [*table[1 : 1 + count], len(codestream)]
    if table[0] != count or ends[0] != 64 or ends != sorted(ends):
        found = f"found a broken header of {table[0]} RLE segments, expected {count}"
        raise _rejected(instance, "UNDECODABLE_PIXELS", found)
    values = np.empty((size, count), np.uint8)
    for place, (start, end) in enumerate(pairwise(ends)):
        plane = np.empty(size, np.uint8)  # as large as it must be: what is more is not unpacked
        unpack = partial(imagecodecs.packbits_decode, out=plane.data)
        found_values = len(_run(instance, unpack, codestream[start:end])) if start < end else 0
        if found_values != size:
            found = f"found {found_values} values in an RLE segment, expected {pixels.rows} × {pixels.columns}"
            raise _rejected(instance, "UNDECODABLE_PIXELS", found)
        values[:, count - 1 - place] = plane
    return values.view(f"<{'i' if pixels.signed else 'u'}{count}").reshape(pixels.rows, pixels.columns)


def _decoder(codec: str) -> Callable[[bytes], Any]:
    """libjpeg-turbo for all JPEG, CharLS for JPEG-LS, OpenJPEG for JPEG 2000 with or without high throughput."""
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
        raise _rejected(instance, "UNDECODABLE_PIXELS", found) from error


def _as_declared(instance: Instance, pixels: PixelFormat, frame: CodedFrame, decoded: Stored) -> Stored:
    """Values with the sign that DICOM declares, where the codestream leaves no doubt about it.

    JPEG and JPEG-LS know no sign: a negative value is its two's complement in as many bits as the codestream has, or in
    Bits Stored. Where the codestream has fewer, and for JPEG 2000 that says the other sign, each way of reading a value
    is tried, and only a slice on which they agree is taken. Where it has more, they are the cells of PS3.5 8.1.1.
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
        declared = f"{'signed' if pixels.signed else 'unsigned'} ones of {pixels.bits_stored} bits in the header"
        raise _rejected(instance, "BITS_MISMATCH", f"found {found} and {declared}, which can be read in several ways")
    return readings[0]


def _two_complement(values: Stored, bits: int) -> Stored:
    if values.dtype.itemsize * 8 == bits:
        return values.view(f"i{values.dtype.itemsize}")
    half = 1 << (bits - 1)
    return (((values.astype(np.int64) & (2 * half - 1)) ^ half) - half).astype(np.int32)


def _rejected(instance: Instance, reason: str, found: str) -> SeriesRejected:
    return SeriesRejected(reason, f"{named(instance)}: {found}; get the file again")
