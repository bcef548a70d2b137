"""Where a multi-frame file has the pixels of each frame, and the bytes of one of them.

Native frames follow one another without gaps; what is behind the last is padding (PS3.5 8.1.1). Encapsulated ones are
told apart by the extended or the basic offset table, or because each is one fragment (A.4). A table is believed only
where it points at fragments.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final

from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from operators.dicom.file_format import inflate
from operators.dicom.pixel_format import COMPRESSED_SYNTAXES, MAX_SIDE, NATIVE_SYNTAXES
from operators.errors import SeriesFailed, SeriesRejected
from operators.instance import Frame, Instance

MAX_FRAGMENTS: Final = 1 << 20
"""Of a file: more than any encoder makes, and no more than 200 MB of memory."""

_PIXEL_DATA: Final = (0x7FE0, 0x0010)
_ITEM: Final = (0xFFFE, 0xE000)
_END: Final = (0xFFFE, 0xE0DD)
_UNDEFINED: Final = 0xFFFFFFFF

_Span = tuple[int, int]


def locate_frames(instance: Instance, of_file: Dataset, frames: int) -> tuple[Frame, ...]:
    """The place of each frame, in the order of the file; nothing is decoded.

    Args:
        instance: of the file.
        of_file: with the extended offset table and its lengths, as bytes, where the file has them.
        frames: how many it should have.

    Raises:
        SeriesRejected: `MISSING_PIXELS`, `TRUNCATED_PIXELS`, `UNDECODABLE_PIXELS`, `UNSUPPORTED_PIXELS` or
            `UNSUPPORTED_TRANSFER_SYNTAX`.
        SeriesFailed: `FILE_CHANGED`.
        OSError: where the file cannot be read.
    """
    if instance.pixel_offset is None:
        raise _rejected(instance, "MISSING_PIXELS", "the file ends before its pixels, or never had any")
    syntax = str(instance.header.file_meta.get("TransferSyntaxUID") or "")
    if syntax not in NATIVE_SYNTAXES and syntax not in COMPRESSED_SYNTAXES:
        uid = UID(syntax, validation_mode=config.IGNORE)
        name = uid.name if uid.is_valid else "no valid transfer syntax"
        raise _rejected(instance, "UNSUPPORTED_TRANSFER_SYNTAX", f"found {name}")
    with open_plain(instance) as file:
        size = file.seek(0, io.SEEK_END)
        start, stated = _pixel_element(instance, file, NATIVE_SYNTAXES.get(syntax, "<"))
        if syntax in NATIVE_SYNTAXES:
            spans = _native(instance, start, min(stated, size - start), stated, frames)
        else:
            fragments, basic = _fragments(instance, file, start, stated, size)
            spans = _by_frame(instance, fragments, _offsets(instance, of_file, fragments, basic, frames), frames)
    return tuple(Frame(index, tuple(span)) for index, span in enumerate(spans))


def read_frame(instance: Instance, at_most: int) -> bytes:
    """The bytes of one frame: plain numbers, or its codestream, the fragments joined.

    Args:
        instance: one frame of a file.
        at_most: how many bytes it may have.

    Raises:
        SeriesRejected: `UNDECODABLE_PIXELS`, where it has more.
        SeriesFailed: `FILE_CHANGED`, where the file is no longer what it was when its header was read.
        OSError: where the file cannot be read.
    """
    frame = instance.frame
    if frame is None:
        raise ValueError("not one frame of a file, but a file")
    encapsulated = instance.header.file_meta.TransferSyntaxUID in COMPRESSED_SYNTAXES
    if sum(length for _, length in frame.spans) > at_most:
        raise _rejected(instance, "UNDECODABLE_PIXELS", f"found more than {at_most} bytes of compressed pixels")
    pieces = []
    with open_plain(instance) as file:
        _, little = instance.header.original_encoding
        _pixel_element(instance, file, "<" if little else ">")
        for offset, length in frame.spans:
            file.seek(offset - 8 if encapsulated else offset)
            if encapsulated and file.read(8) != struct.pack("<HHI", *_ITEM, length):
                raise _changed(instance)
            pieces.append(file.read(length))
            if len(pieces[-1]) != length:
                raise _changed(instance)
        check_unchanged(instance, file)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def open_plain(instance: Instance) -> BinaryIO:
    """The file, open; inflated where it is deflated, so that offsets lead to the pixels.

    Raises:
        SeriesFailed: `FILE_CHANGED`, where it can no longer be inflated.
        OSError: where the file cannot be read.
    """
    if instance.header.file_meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:
        return instance.path.open("rb")
    state = instance.path.stat()
    if instance.stamp and instance.stamp != (state.st_size, state.st_mtime_ns):
        raise _changed(instance)
    try:
        return io.BytesIO(_inflated(instance.path, state.st_size, state.st_mtime_ns))
    except (ValueError, struct.error, zlib.error) as error:
        raise _changed(instance) from error


# Of the last file alone, which its frames share: of more, a folder of small files could fill the memory.
@lru_cache(maxsize=1)
def _inflated(path: Path, size: int, changed_ns: int) -> bytes:
    with path.open("rb") as file:
        return inflate(file)


def check_unchanged(instance: Instance, file: BinaryIO) -> None:
    """That a file, of which the pixels have been read, is still the one whose header was read.

    Raises:
        SeriesFailed: `FILE_CHANGED`.
    """
    if instance.stamp and not isinstance(file, io.BytesIO):
        state = os.fstat(file.fileno())
        if instance.stamp != (state.st_size, state.st_mtime_ns):
            raise _changed(instance)


def named(instance: Instance) -> str:
    """A slice or frame as messages name it: never by its path, which may hold a name."""
    uid = instance.sop_instance_uid
    known = UID(uid, validation_mode=config.IGNORE).is_valid
    if instance.frame:
        return f"frame {instance.frame.index + 1} of {uid if known else 'a file without a valid UID'}"
    return f"slice {uid}" if known else "a slice without a valid UID"


def _pixel_element(instance: Instance, file: BinaryIO, order: str) -> tuple[int, int]:
    """Where the value of Pixel Data begins, and its stated length."""
    offset = instance.pixel_offset or 0
    file.seek(offset)
    data = file.read(12)
    if len(data) < 12:
        raise _rejected(instance, "TRUNCATED_PIXELS", "the file ends where its pixels begin")
    tag = struct.unpack_from(f"{order}HH", data)
    if tag != _PIXEL_DATA:
        if tag[0] == _PIXEL_DATA[0]:
            raise _rejected(instance, "UNSUPPORTED_PIXELS", "found pixels of floating point, expected integers")
        raise _changed(instance)
    header = 12 if data[4:6] in (b"OB", b"OW", b"UN") else 8
    return offset + header, struct.unpack_from(f"{order}I", data, header - 4)[0]


def _native(instance: Instance, start: int, there: int, stated: int, frames: int) -> list[list[_Span]]:
    length = _native_bytes(instance)
    expected = frames * length
    if stated == _UNDEFINED:
        raise _rejected(instance, "UNDECODABLE_PIXELS", "found encapsulated pixels, expected native ones")
    if there < expected:
        found = f"found {there} bytes of pixels, expected {expected} from {frames} frames of rows × columns"
        raise _rejected(instance, "TRUNCATED_PIXELS", found)
    if length <= stated - expected:
        found = f"found {stated} bytes of pixels, expected {expected} from {frames} frames: there is at least one more"
        raise _rejected(instance, "UNDECODABLE_PIXELS", found)
    return [[(start + index * length, length)] for index in range(frames)]


def _native_bytes(instance: Instance) -> int:
    header = instance.header
    rows, columns, allocated = (header.get(keyword) for keyword in ("Rows", "Columns", "BitsAllocated"))
    samples = header.get("SamplesPerPixel") or 1
    sides = all(isinstance(side, int) and 1 <= side <= MAX_SIDE for side in (rows, columns))
    if not sides or samples not in (1, 3) or allocated not in (8, 16, 32):
        found = f"found {rows} rows × {columns} columns of {samples} samples of {allocated} bits"
        raise _rejected(instance, "UNSUPPORTED_PIXELS", f"{found}, expected 1 to {MAX_SIDE} of 8, 16 or 32 bits")
    return int(rows * columns * samples * allocated // 8)


def _fragments(instance: Instance, file: BinaryIO, start: int, stated: int, size: int) -> tuple[list[_Span], bytes]:
    """(offset, length) of each fragment, and the content of the basic offset table before them."""
    if stated != _UNDEFINED:
        raise _rejected(instance, "UNDECODABLE_PIXELS", "found native pixels, expected what the transfer syntax says")
    found: list[_Span] = []
    place = start
    while True:
        file.seek(place)
        header = file.read(8)
        if len(header) < 8:
            raise _rejected(instance, "TRUNCATED_PIXELS", "the file is cut off between its compressed frames")
        group, element, length = struct.unpack("<HHI", header)
        if (group, element) == _END:
            break
        if (group, element) != _ITEM or length == _UNDEFINED or len(found) > MAX_FRAGMENTS:
            raise _rejected(instance, "UNDECODABLE_PIXELS", "found no fragments, or too many, in the compressed pixels")
        if place + 8 + length > size:
            raise _rejected(instance, "TRUNCATED_PIXELS", "the file is cut off within its compressed pixels")
        found.append((place + 8, length))
        place += 8 + length
    if len(found) < 2:
        raise _rejected(instance, "TRUNCATED_PIXELS", "the file is cut off before its compressed pixels")
    file.seek(found[0][0])
    # A table of more than two entries a fragment is none: it is not read.
    return found[1:], file.read(min(found[0][1], 8 * len(found)))


def _offsets(
    instance: Instance, of_file: Dataset, fragments: list[_Span], basic: bytes, frames: int
) -> list[int] | None:
    """Where each frame begins, counted from the first fragment's item; None where no table says it."""
    extended = of_file.get("ExtendedOffsetTable")
    if isinstance(extended, bytes) and extended:
        lengths = of_file.get("ExtendedOffsetTableLengths") or b""
        table, kind = _numbers(extended, "Q"), "extended"
        # One fragment a frame (C.7.6.3.1.8); its length may say what the padding to an even one adds.
        stated = _numbers(lengths, "Q") if isinstance(lengths, bytes) else []
        padded = [length + length % 2 for length in stated]
        if padded != [length for _, length in fragments]:
            raise _contradicts(instance, kind)
    elif basic:
        table, kind = _numbers(basic, "I"), "basic"
    else:
        return None
    if len(table) != frames:
        raise _contradicts(instance, kind)
    return table


def _by_frame(instance: Instance, fragments: list[_Span], offsets: list[int] | None, frames: int) -> list[list[_Span]]:
    """The fragments of each frame."""
    if offsets is None:
        if frames == 1:
            return [fragments]
        if len(fragments) != frames:
            found = f"found {len(fragments)} fragments of {frames} frames without an offset table"
            raise _rejected(instance, "UNDECODABLE_PIXELS", f"{found}, so no way to tell the frames apart")
        return [[fragment] for fragment in fragments]
    origin = fragments[0][0]
    begins = {offset - origin: index for index, (offset, _) in enumerate(fragments)}
    firsts = [begins.get(offset, -1) for offset in offsets]
    if firsts[0] != 0 or any(after <= before for before, after in pairwise(firsts)):
        raise _contradicts(instance, "offset")
    return [fragments[first:end] for first, end in pairwise([*firsts, len(fragments)])]


def _numbers(table: bytes, kind: str) -> list[int]:
    """Unsigned little-endian numbers; none where the length is not that of whole ones."""
    width = struct.calcsize(f"<{kind}")
    return [] if len(table) % width else list(struct.unpack(f"<{len(table) // width}{kind}", table))


def _contradicts(instance: Instance, kind: str) -> SeriesRejected:
    found = f"the {kind.replace('offset', 'frame')} offset table does not point at the first fragment of each frame"
    return _rejected(instance, "UNDECODABLE_PIXELS", found)


def _changed(instance: Instance) -> SeriesFailed:
    return SeriesFailed("FILE_CHANGED", f"{named(instance)}: the file was changed while it was read; run again")


def _rejected(instance: Instance, reason: str, found: str) -> SeriesRejected:
    return SeriesRejected(reason, f"{named(instance)}: {found}; get the file again")
