"""Pixel Data of a file: its element, the position of each frame's bytes, and the bytes of one frame.

A single-frame file has one frame. Native frames follow one another without gaps; bytes after the last are padding
(PS3.5 8.1.1). For encapsulated frames see `operators.dicom.fragments`.
"""

from __future__ import annotations

import struct
from typing import Final

from pydicom.dataset import Dataset

from operators.dicom.fragments import ITEM, Span, fragments_of, frames_of
from operators.dicom.pixel_format import MAX_SIDE, PixelFormat
from operators.dicom.plain_file import PlainFile, changed, check_unchanged, open_plain, rejected
from operators.dicom.transfer_syntaxes import COMPRESSED_SYNTAXES, NATIVE_SYNTAXES, transfer_syntax
from operators.instance import Frame, Instance, PixelElement

PIXEL_DATA: Final = 0x7FE00010
PIXEL_TAGS: Final = frozenset({PIXEL_DATA, 0x7FE00009, 0x7FE00008})
"""Pixel Data, Double Float Pixel Data and Float Pixel Data."""

ELEMENT_BYTES: Final = 12
"""Maximum size of an element before its value: tag, VR and length (PS3.5 7.1)."""

_UNDEFINED: Final = 0xFFFFFFFF


def pixel_element(head: bytes, offset: int, size: int, *, little: bool) -> PixelElement | None:
    """Return the element of the pixels; None where the element there is another one.

    Args:
        head: the first `ELEMENT_BYTES` of the element.
        offset: its offset in the file.
        size: size of the file in bytes.
        little: whether the byte order is little endian.
    """
    order = "<" if little else ">"
    group, element = struct.unpack_from(f"{order}HH", head) if len(head) >= 4 else (0, 0)
    tag = group << 16 | element
    if tag not in PIXEL_TAGS:
        return None
    # An implicit length cannot look like one of these VRs: lengths are even, and O and U are odd.
    length = 12 if head[4:6] in (b"OB", b"OW", b"UN") else 8
    stated = struct.unpack_from(f"{order}I", head, length - 4)[0] if len(head) >= length else 0
    start = offset + length
    return PixelElement(tag, offset, start, None if stated == _UNDEFINED else stated, max(0, size - start))


def locate_frame(instance: Instance, pixels: PixelFormat) -> Frame:
    """Return the position of the pixels of a single-frame file, or of one frame of a multi-frame file; decode nothing.

    Args:
        instance: a file, or one of its frames.
        pixels: its pixel format.

    Raises:
        SeriesRejected, SeriesFailed, OSError: see `locate_frames`.
    """
    return instance.frame or _locate(instance, 1, pixels.native_bytes, Dataset())[0]


def locate_frames(instance: Instance, of_file: Dataset, frames: int) -> tuple[Frame, ...]:
    """Return the position of each frame, in the order of the file; decode nothing.

    Args:
        instance: the file.
        of_file: data set with the extended offset table and its lengths, as bytes, where the file has them.
        frames: number of frames expected.

    Raises:
        SeriesRejected: `MISSING_PIXELS`, `TRUNCATED_PIXELS`, `UNDECODABLE_PIXELS`, `UNSUPPORTED_PIXELS` or
            `UNSUPPORTED_TRANSFER_SYNTAX`.
        SeriesFailed: `FILE_CHANGED`.
        OSError: the file cannot be read.
    """
    native = transfer_syntax(instance.header) in NATIVE_SYNTAXES
    return _locate(instance, frames, _native_bytes(instance) if native else 0, of_file)


def _locate(instance: Instance, frames: int, native_bytes: int, of_file: Dataset) -> tuple[Frame, ...]:
    element = instance.pixels
    if element is None:
        raise rejected(instance, "MISSING_PIXELS", "the file has no pixels: cut off before them, or stripped")
    if element.tag != PIXEL_DATA:
        raise rejected(instance, "UNSUPPORTED_PIXELS", "found floating-point pixels, expected integers")
    if not element.there:
        raise rejected(instance, "TRUNCATED_PIXELS", "the file ends where its pixels begin")
    native = transfer_syntax(instance.header) in NATIVE_SYNTAXES
    if native is (element.stated is None):
        found, expected = ("encapsulated", "native") if native else ("native", "encapsulated")
        text = f"found {found} pixels, expected {expected} pixels according to the transfer syntax"
        raise rejected(instance, "UNDECODABLE_PIXELS", text)
    if native:
        spans = _native_spans(instance, element, frames, native_bytes)
    else:
        with open_plain(instance) as file:
            fragments, basic = fragments_of(instance, file, element, frames)
        spans = frames_of(instance, fragments, of_file, basic, frames)
    return tuple(Frame(index, frames, tuple(span)) for index, span in enumerate(spans))


def read_frame(instance: Instance, frame: Frame, buffer: bytearray | None = None) -> memoryview:
    """Return the bytes of one frame: native values, or its codestream with the fragments joined.

    Args:
        instance: the file.
        frame: its position.
        buffer: memory for the bytes of one span, if they fit, valid until it is used again: allocating new memory for
            each slice costs more than reading it.

    Raises:
        SeriesFailed: `FILE_CHANGED`: the file has changed since its header was read.
        OSError: the file cannot be read.
    """
    if instance.pixels is None:
        raise ValueError("a frame of a file without pixels")
    encapsulated = instance.header.file_meta.TransferSyntaxUID in COMPRESSED_SYNTAXES
    _, little = instance.header.original_encoding
    pieces = []
    with open_plain(instance) as file:
        file.seek(instance.pixels.offset)
        if file.read(4) != struct.pack("<HH" if little else ">HH", PIXEL_DATA >> 16, PIXEL_DATA & 0xFFFF):
            raise changed(instance)
        for offset, length in frame.spans:
            file.seek(offset - 8 if encapsulated else offset)
            if encapsulated and file.read(8) != struct.pack("<HHI", *ITEM, length):
                raise changed(instance)
            pieces.append(_read(file, length, buffer if len(frame.spans) == 1 else None))
            if len(pieces[-1]) != length:
                raise changed(instance)
        check_unchanged(instance, file)
    return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))


def read_beginning(instance: Instance, frame: Frame, size: int) -> bytes:
    """Return up to `size` bytes from the start of a frame's first fragment."""
    offset, length = frame.spans[0]
    with open_plain(instance) as file:
        file.seek(offset)
        return file.read(min(length, size))


def _read(file: PlainFile, length: int, buffer: bytearray | None) -> memoryview:
    if buffer is None or length > len(buffer):
        return memoryview(file.read(length))
    into = memoryview(buffer)[:length]
    return into[: file.readinto(into)]


def _native_spans(instance: Instance, element: PixelElement, frames: int, length: int) -> list[list[Span]]:
    """Return the positions of native frames; several frames are in doubt if the file has room for one more."""
    stated, expected = element.stated or 0, frames * length
    there = min(stated, element.there)
    source = f"{frames} frames of rows × columns" if frames > 1 else "rows × columns"
    if there < expected:
        raise rejected(
            instance, "TRUNCATED_PIXELS", f"found {there} bytes of pixels, expected {expected} from {source}"
        )
    if frames > 1 and length <= stated - expected:
        found = f"found {stated} bytes of pixels, expected {expected} from {frames} frames; at least one more is there"
        raise rejected(instance, "UNDECODABLE_PIXELS", found)
    return [[(element.start + index * length, length)] for index in range(frames)]


def _native_bytes(instance: Instance) -> int:
    header = instance.header
    rows, columns, allocated = (header.get(keyword) for keyword in ("Rows", "Columns", "BitsAllocated"))
    samples = header.get("SamplesPerPixel") or 1
    sides = all(isinstance(side, int) and 1 <= side <= MAX_SIDE for side in (rows, columns))
    if not sides or samples not in (1, 3) or allocated not in (8, 16, 32):
        found = f"found {rows} rows × {columns} columns of {samples} samples of {allocated} bits"
        raise rejected(instance, "UNSUPPORTED_PIXELS", f"{found}, expected 1 to {MAX_SIDE} of 8, 16 or 32 bits")
    return int(rows * columns * samples * allocated // 8)
