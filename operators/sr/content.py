"""The content items of an SR (PS3.3 C.17.3) as plain values, made by `tree.py` and written by `encode_items.py`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONTAINS = "CONTAINS"
HAS_CONCEPT_MOD = "HAS CONCEPT MOD"
HAS_OBS_CONTEXT = "HAS OBS CONTEXT"
INFERRED_FROM = "INFERRED FROM"
SELECTED_FROM = "SELECTED FROM"


class Concept(NamedTuple):
    """A coded entry (PS3.3 8.8); ASCII in all its parts."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Text:
    """A TEXT item's value."""

    text: str


@dataclass(frozen=True, slots=True)
class UidRef:
    """A UIDREF item's value."""

    uid: str


@dataclass(frozen=True, slots=True)
class Number:
    """A NUM item's value.

    Attributes:
        decimal: Numeric Value, at most 16 characters.
        double: Floating Point Value, the same number.
        unit: in UCUM.
    """

    decimal: str
    double: float
    unit: Concept


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An IMAGE item's value.

    Attributes:
        frame: Referenced Frame Number, from 1; None for a single-frame image.
    """

    sop_class_uid: str
    sop_instance_uid: str
    frame: int | None = None


@dataclass(frozen=True, slots=True)
class Graphic:
    """An SCOORD item's value.

    Attributes:
        kind: `POINT` or `POLYLINE`.
        points: float32 (n, 2), column and row in pixels; (0, 0) is the upper left corner of the first pixel.
    """

    kind: str
    points: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Container:
    """A CONTAINER item's value.

    Attributes:
        template: identifier of its template in DCMR; empty for none.
    """

    template: str = ""


Value = Text | UidRef | Number | ImageReference | Graphic | Container | Concept
"""The value of an item; a Concept makes it a CODE item."""


@dataclass(frozen=True, slots=True)
class Item:
    """One content item and its children.

    Attributes:
        relationship: relationship to its parent; empty at the root.
        name: Concept Name; None where the value type needs none.
    """

    relationship: str
    name: Concept | None
    value: Value
    children: tuple[Item, ...] = ()

    def texts(self) -> list[str]:
        """Return all text below it that a character set must hold; codes and UIDs are ASCII."""
        own = [self.value.text] if isinstance(self.value, Text) else []
        return own + [text for child in self.children for text in child.texts()]


def text_value(text: str) -> Text:
    """Return a TEXT without what UT forbids (PS3.5 6.2): control characters except line ends, and lone surrogates."""
    return Text(re.sub(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff]", " ", text))
