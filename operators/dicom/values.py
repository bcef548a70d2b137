"""Values of a header by keyword, in the type requested: anything missing or of another type is left out."""

from __future__ import annotations

import math
from typing import Any

from pydicom.config import IGNORE
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue
from pydicom.uid import UID


def values_in(header: Dataset, keyword: str) -> tuple[Any, ...]:
    """Return the values of an element; empty where it is missing, empty, bytes or cannot be converted to its VR."""
    try:
        value = header.get(keyword)
    except (ValueError, TypeError, OverflowError, NotImplementedError, BytesLengthException):
        return ()
    if value is None or value == "" or isinstance(value, bytes):
        return ()
    return tuple(value) if isinstance(value, MultiValue | list | tuple) else (value,)


def texts_in(header: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values as text, without padding and white space around each."""
    return tuple(str(value).strip(" \0\t\r\n") for value in values_in(header, keyword))


def text_in(header: Dataset, keyword: str) -> str:
    """Return all values as one text, joined by backslashes as in the file; empty where there are none."""
    return "\\".join(texts_in(header, keyword))


def numbers_in(header: Dataset, keyword: str) -> list[float]:
    """Return the values of a numeric element, NaN and infinity included; empty where one of them is not a number."""
    values = values_in(header, keyword)
    if not all(isinstance(value, int | float) for value in values):
        return []
    try:
        return [float(value) for value in values]
    except OverflowError:  # an integer string (VR IS) of more than 308 digits
        return []


def number_in(header: Dataset, keyword: str) -> float | None:
    """Return the only value of an element as a finite number; None where it is not a single finite number."""
    numbers = numbers_in(header, keyword)
    return numbers[0] if len(numbers) == 1 and math.isfinite(numbers[0]) else None


def is_valid_uid(uid: str) -> bool:
    """Return whether a text is a valid UID (PS3.5 9.1), without a warning from pydicom."""
    return UID(uid, IGNORE).is_valid
