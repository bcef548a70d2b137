"""The bytes of an element → its value, each made once for all headers of a reading.

They are converted here, without pydicom's validation: real headers break the rules (`DS` of more than 16 characters,
dashed UUIDs for UIDs), and a warning would print the value, which may be a name. They are checked where they are used.
"""

from __future__ import annotations

import struct
from typing import Final

from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from operators.dicom.character_sets import ASCII, Undecodable, decode_text
from operators.dicom.file_format import NUMBER_VRS, TEXT_VRS
from operators.dicom.header import own_element

LATIN_VRS: Final = {"DS", "IS", "UI"}
"""Never text: anything else than a number or a UID is invalid."""

_CHARACTER_SET_APPLIES: Final = {"LO", "LT", "PN", "SH", "ST", "UC", "UT"}
_KEPT_BYTES: Final = 256
_KEPT_VALUES: Final = 8192


class HeaderValues:
    """The converted values of the headers of one reading, each made once: most are the same in all slices.

    They last as long as the reading, so that a long-running process keeps no patient's values. At most 8192 values of
    256 bytes are kept: 2 MiB.
    """

    def __init__(self) -> None:
        """Make an empty store."""
        self._made: dict[tuple[int, str, bytes, bool, tuple[str, ...]], DataElement] = {}

    def shared(self, tag: int, vr: str, value: bytes, little: bool, sets: tuple[str, ...]) -> DataElement:
        """Return an element that several headers share: nobody may change it, and several values are a tuple."""
        key = tag, vr, value, little, sets
        made = self._made.get(key)
        if made is None:
            made = _element(tag, vr, value, little, sets)
            if len(value) <= _KEPT_BYTES:
                if len(self._made) >= _KEPT_VALUES:
                    self._made.clear()
                self._made[key] = made
        return made

    def own(self, tag: int, vr: str, value: bytes, little: bool, sets: tuple[str, ...]) -> DataElement:
        """Return an element that belongs to one header, which may be changed."""
        return own_element(self.shared(tag, vr, value, little, sets))


def _element(tag: int, vr: str, value: bytes, little_endian: bool, sets: tuple[str, ...]) -> DataElement:
    """Return an element whose value has the type of its VR; empty where the bytes are not such a value."""
    tag = BaseTag(tag)
    if vr not in NUMBER_VRS and vr not in TEXT_VRS:
        vr = _known_vr(tag)
    try:
        if vr in NUMBER_VRS:
            numbers = struct.unpack(f"{'<' if little_endian else '>'}{_count(value, vr)}{NUMBER_VRS[vr]}", value)
            return DataElement(tag, vr, numbers[0] if len(numbers) == 1 else numbers, already_converted=True)
        if vr in TEXT_VRS:
            return _text_element(tag, vr, value, sets)
        return DataElement(tag, "UN", value, already_converted=True)
    except (ValueError, TypeError, OverflowError, ArithmeticError, struct.error):
        return DataElement(tag, vr, None, already_converted=True)


def _text_element(tag: BaseTag, vr: str, value: bytes, sets: tuple[str, ...]) -> DataElement:
    if vr in _CHARACTER_SET_APPLIES:
        text = decode_text(value, sets, name=vr == "PN")
    elif vr in LATIN_VRS or value.isascii():
        text = value.decode("latin-1")
    else:  # each value on its own: an ImageType may say LOCALIZER beside an undecodable value
        texts = tuple(decode_text(part, (ASCII,)) for part in value.rstrip(b" \0").split(b"\\"))
        return DataElement(tag, vr, texts[0] if len(texts) == 1 else texts, already_converted=True)
    if isinstance(text, Undecodable):
        return DataElement(tag, vr, text, already_converted=True)
    made = DataElement(tag, vr, text.strip(" \0\r\n" if vr == "UI" else " \0"), validation_mode=config.IGNORE)
    several = isinstance(made.value, MultiValue)
    return DataElement(tag, vr, tuple(made.value), already_converted=True) if several else made


def _known_vr(tag: BaseTag) -> str:
    """Return the VR of the dictionary, for implicit VR and UN; Pixel Representation tells the sign later."""
    try:
        return dictionary_VR(tag).replace("US or SS", "US")
    except KeyError:
        return "UN"


def _count(value: bytes, vr: str) -> int:
    return len(value) // struct.calcsize(f"={NUMBER_VRS[vr]}")
