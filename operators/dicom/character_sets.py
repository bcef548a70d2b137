"""Text of a data set in its Specific Character Set (PS3.3 C.12.1.1.2, PS3.5 6.1), exactly or not at all.

A wrong name in a report is worse than no name, so every byte must be valid in the declared character set; nothing is
guessed, replaced or masked. pydicom 3.0 is not used here: it leaves the escape sequences of ISO 2022 IR 58 in the text,
and decodes invalid bytes to replacement characters.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Final

from pydicom.dataset import Dataset

from operators.types import Finding

ASCII: Final = "6"
"""The default repertoire, ISO IR 6, which applies where nothing is declared."""

_SINGLE_BYTE: Final = {
    **{"100": "iso8859-1", "101": "iso8859-2", "109": "iso8859-3", "110": "iso8859-4", "144": "iso8859-5"},
    **{"127": "iso8859-6", "126": "iso8859-7", "138": "iso8859-8", "148": "iso8859-9", "203": "iso8859-15"},
    **{"166": "tis-620", "13": "shift_jis"},
}
"""ISO registration number → codec of its upper half, bytes A0 to FF; for shift_jis, half-width katakana."""

_DOUBLE_BYTE: Final = {"149": "euc_kr", "58": "gb2312"}
"""ISO registration number → codec of its byte pairs from A1 to FE."""

_WHOLE: Final = {"192": "utf-8", "GB18030": "gb18030", "GBK": "gbk"}
"""Character sets without code extensions (Table C.12-5)."""

_LOWER_ESCAPES: Final = {b"(B": ASCII, b"(J": "13", b"$B": "87", b"$(D": "159"}
_UPPER_ESCAPES: Final = {
    **{b"-A": "100", b"-B": "101", b"-C": "109", b"-D": "110", b"-L": "144", b"-G": "127", b"-F": "126"},
    **{b"-H": "138", b"-M": "148", b"-b": "203", b"-T": "166", b")I": "13", b"$)C": "149", b"$)A": "58"},
}
"""Escape sequences (Tables C.12-3 and C.12-4), without ESC, for the lower half (G0) and the upper half (G1)."""

_TERM: Final = re.compile(r"ISO[ _-]?(?:2022[ _-])?IR[ _-]?(\d+)")
_PIECE: Final = re.compile(rb"\x1b(\$?[(),-]?[@-~])|[^\x1b]+")
_RESET: Final = re.compile(rb"([\r\n\f\t\\])")
_RESET_IN_NAMES: Final = re.compile(rb"([\r\n\f\t\\^=])")


class Undecodable(str):
    """Text that its character set cannot decode: an empty string that is known to be undecodable.

    Attributes:
        digest: SHA-256, in hex, of its bytes, so that different values can be distinguished without being read.
    """

    digest: str = ""


def undecodable(value: bytes) -> Undecodable:
    """Return the (empty) text for bytes that cannot be decoded."""
    text = Undecodable()
    text.digest = hashlib.sha256(value.strip(b" \0")).hexdigest()
    return text


def character_sets(terms: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return registration numbers, `GB18030` or `GBK` for the values of Specific Character Set; at least one.

    Common misspellings (`ISO_IR_100`, `ISO IR 100`) are recognised. An unknown term is returned as it is, and only
    ASCII can be decoded with it.
    """
    values = terms.split("\\") if isinstance(terms, str) else list(terms or ())
    found = []
    for value in values or [""]:
        term = str(value).strip(" \0").upper()
        number = _TERM.fullmatch(term)
        found.append(number[1] if number else term or ASCII)
    return tuple(found)


def decode_text(value: bytes, sets: Sequence[str], *, name: bool = False) -> str:
    """Return the text of a value, several values still separated by backslashes; `Undecodable` for invalid bytes.

    Args:
        value: bytes as in the file.
        sets: character sets as `character_sets` returns them.
        name: whether it is a Person Name, in which ^ and = end the effect of an escape sequence.
    """
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    try:
        if sets[0] not in _WHOLE:
            text = _extended(value, sets, name)
        elif b"\x1b" in value:
            return undecodable(value)
        else:
            text = value.decode(_WHOLE[sets[0]])
    except (UnicodeDecodeError, LookupError):
        return undecodable(value)
    return undecodable(value) if "\ufffd" in text else text  # another system could not decode it, and wrote U+FFFD


def undecodable_finding(headers: Iterable[Dataset], keywords: Sequence[str]) -> tuple[Finding, ...]:
    """Return the finding `UNDECODABLE_TEXT` for the elements concerned; an empty tuple where all text is valid."""
    undecoded: set[str] = set()
    for header in headers:
        undecoded.update(keyword for keyword in keywords if is_undecodable(header.get(keyword)))
    if not undecoded:
        return ()
    detail = f"{', '.join(sorted(undecoded))}: not valid in the declared character set, left out"
    return (Finding("UNDECODABLE_TEXT", detail),)


def is_undecodable(value: object) -> bool:
    """Return whether a value, or one of several values, is text that its character set cannot decode."""
    if isinstance(value, list | tuple):
        return any(isinstance(item, Undecodable) for item in value)
    return isinstance(value, Undecodable)


def _extended(value: bytes, sets: Sequence[str], name: bool) -> str:
    """Decode text with code extensions (PS3.5 6.1.2.5): escape sequences apply until the next delimiter.

    Only declared character sets, and ASCII, can be switched to.
    """
    initial = sets[0] if sets[0] in _SINGLE_BYTE or sets[0] in _DOUBLE_BYTE else ASCII
    if initial == ASCII != sets[0] and sets[0] not in ("87", "159"):
        raise LookupError(sets[0])
    lower, upper, pieces = ASCII, initial, []
    at = 0
    while at < len(value):
        piece = _PIECE.match(value, at)
        if piece is None:
            raise LookupError("an escape sequence without an end")
        at = piece.end()
        if escape := piece[1]:
            other = _LOWER_ESCAPES.get(escape) or _UPPER_ESCAPES[escape]
            if other not in sets and other != ASCII:
                raise LookupError(other)
            lower, upper = (other, upper) if escape in _LOWER_ESCAPES else (lower, other)
        elif lower in ("87", "159"):
            pieces.append(_japanese(piece[0], lower))
        else:
            for part in (_RESET_IN_NAMES if name else _RESET).split(piece[0]):
                pieces.append(_halves(part, upper))
                if len(part) == 1 and (_RESET_IN_NAMES if name else _RESET).fullmatch(part):
                    lower, upper = ASCII, initial
    return "".join(pieces)


def _halves(part: bytes, upper: str) -> str:
    """Decode text whose lower half is ASCII and whose upper half is one character set."""
    if part.isascii():
        return part.decode("ascii")
    if upper in _DOUBLE_BYTE:
        return part.decode(_DOUBLE_BYTE[upper])
    if upper == ASCII or any(0x80 <= byte < 0xA0 for byte in part):
        raise LookupError(upper)
    if upper == "13" and any(byte >= 0xE0 for byte in part):
        raise LookupError(upper)  # double bytes of shift_jis begin here, which ISO IR 13 does not have
    return part.decode(_SINGLE_BYTE[upper])


def _japanese(part: bytes, lower: str) -> str:
    """Decode byte pairs of JIS X 0208 or JIS X 0212 as EUC-JP; spaces and line ends stay as they are."""
    pieces = []
    at = 0
    while at < len(part):
        if part[at] <= 0x20:
            pieces.append(chr(part[at]))
            at += 1
            continue
        pair = part[at : at + 2]
        if len(pair) < 2 or not pair.isascii():
            raise LookupError(lower)
        raised = bytes(byte | 0x80 for byte in pair)
        pieces.append((b"\x8f" + raised if lower == "159" else raised).decode("euc_jp"))
        at += 2
    return "".join(pieces)
