"""The digest of an image's content: header and pixel values rather than bytes, for an archive may have transcoded it.

What depends on the transfer syntax does not count: how values are encoded, whether sequences have a length, how pixels
are compressed. Values are compared as bytes, without conversion; in doubt, images count as different.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from operators.dicom.enhanced_ct import ENHANCED_CT, frames, sop_class
from operators.dicom.pixel_format import pixel_format
from operators.dicom.plain_file import open_plain
from operators.dicom.read_header import read_instance
from operators.dicom.read_pixels import read_stored_values
from operators.errors import SeriesError
from operators.instance import Instance

MAX_HEADER_BYTES: Final = 1 << 24
"""An image with a longer header is not compared and counts as different. 10,000 frames have some 10 MiB."""

_CHARACTER_SET: Final = 0x00080005
_PIXELS: Final = 0x7FE0
_PADDING: Final = 0xFFFCFFFC
_WIDTHS: Final = {
    **dict.fromkeys(("AT", "US", "SS", "OW"), 2),
    **dict.fromkeys(("UL", "SL", "FL", "OF", "OL"), 4),
    **dict.fromkeys(("FD", "OD", "UV", "SV", "OV"), 8),
}


def content_digest(path: Path) -> str | None:
    """Return the SHA-256, in hex, of header and pixel values; None where they cannot be determined.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        instance = read_instance(path)
        if instance is None or instance.pixels is None or instance.pixels.offset > MAX_HEADER_BYTES:
            return None
        for piece in (*_header(instance), *_pixels(instance)):
            digest.update(len(piece).to_bytes(8, "big"))
            digest.update(piece)
    except (SeriesError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError, struct.error):
        return None
    return digest.hexdigest()


def _header(instance: Instance) -> Iterator[bytes]:
    with open_plain(instance) as file:
        header = io.BytesIO(file.read(instance.pixels.offset if instance.pixels else 0))
    dataset = dcmread(header, force=True)
    _, little = dataset.original_encoding
    yield from _elements(dataset, little is not False)


def _elements(dataset: Dataset, little: bool) -> Iterator[bytes]:
    as_read = {tag: dataset.get_item(tag) for tag in sorted(dataset.keys())}  # reading a sequence converts others
    for tag, read in as_read.items():
        if tag.element == 0 or tag.group in (2, _PIXELS) or tag == _PADDING:
            continue  # retired group lengths, meta information and padding are not content
        element: Any = read
        raw = isinstance(element, RawDataElement)
        if not raw or (element.VR or _vr(tag)) == "SQ":
            value = dataset[tag].value
            if isinstance(value, Sequence):
                yield _named(tag, b"")
                for item in value:
                    yield b"item"
                    yield from _elements(item, little)
                yield b"end"
                continue
            if tag != _CHARACTER_SET:  # pydicom converts it on its own
                raise ValueError("an element was already converted")
            texts = [value] if isinstance(value, str) else value
            yield _named(tag, "\\".join(texts).encode())
            continue
        yield _named(tag, _little(element.value or b"", element.VR or _vr(tag), little).rstrip(b"\0 "))


def _named(tag: BaseTag, value: bytes) -> bytes:
    return struct.pack("<HH", tag.group, tag.element) + value


def _vr(tag: BaseTag) -> str:
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return "UN"


def _little(value: bytes, vr: str, little: bool) -> bytes:
    width = _WIDTHS.get(vr)
    if little or width is None or len(value) % width:
        return value
    return np.frombuffer(value, f">u{width}").astype(f"<u{width}").tobytes()


def _pixels(instance: Instance) -> Iterator[bytes]:
    """Yield the stored values of each frame, however they were compressed."""
    for frame in frames(instance) if sop_class(instance.header) in ENHANCED_CT else (instance,):
        yield read_stored_values(frame, pixel_format(frame.header)).astype("<i4").tobytes()
