"""TID 300 (Measurement, PS3.16): numbers with their unit and children.

Viewers draw a number that has coordinates or no child; they do not draw one with a Derivation or Measurement Method.
"""

from __future__ import annotations

import numpy as np

from operators.errors import SeriesFailed
from operators.record import TapValues
from operators.sr import codes as sr_codes
from operators.sr.codes import Code
from operators.sr.content import (
    CONTAINS,
    HAS_CONCEPT_MOD,
    INFERRED_FROM,
    SELECTED_FROM,
    Concept,
    Graphic,
    ImageReference,
    Item,
    Number,
    Text,
)

QUANTITY_UNITS = {
    "hu_per_mm": Concept("UCUM", "[hnsf'U]/mm", "Hounsfield unit per millimeter"),
    "hu": Concept("UCUM", "[hnsf'U]", "Hounsfield unit"),
    "cm2": Concept("UCUM", "cm2", "square centimeter"),
    "mm": Concept("UCUM", "mm", "millimeter"),
    "ml": Concept("UCUM", "ml", "milliliter"),
    "fraction": Concept("UCUM", "%", "percent"),
}
NO_UNITS = Concept("UCUM", "1", "no units")
PERCENT = QUANTITY_UNITS["fraction"]
HU = QUANTITY_UNITS["hu"]


def vector(tap: TapValues, code: Code, meaning: str, child: Item) -> list[Item]:
    """Return one NUM per dimension."""
    return [
        number(
            Concept(*sr_codes.dimension_code(code, dimension), meaning.format(dimension)),
            value,
            NO_UNITS,
            child,
            f"tap {tap.name} dimension {dimension}",
        )
        for dimension, value in enumerate(tap.values)
    ]


def number(concept: Concept, value: np.float32, unit: Concept, child: Item | None = None, where: str = "") -> Item:
    """Return a NUM (TID 300): the float32 as the shortest decimal that reads back to it, and as a double."""
    if not np.isfinite(value):
        text = f"{where or concept.meaning} is {value}; expected a finite number; check the bundle and the scan"
        raise SeriesFailed("NON_FINITE_NUMBER", text)
    if unit is PERCENT:
        decimal = sr_codes.percent(value)
        measured = Number(decimal, float(decimal), unit)
    else:
        measured = Number(sr_codes.decimal(value), float(value), unit)
    return Item(CONTAINS, concept, measured, () if child is None else (child,))


def with_graphic(bare: Item, purpose: Concept, graphic: Graphic, image: ImageReference) -> Item:
    """Return the number with coordinates in an image (TID 320), which serve one purpose."""
    if bare.children:
        return bare
    on = Item(SELECTED_FROM, None, image)
    return Item(bare.relationship, bare.name, bare.value, (Item(INFERRED_FROM, purpose, graphic, (on,)),))


def digests(*taps: TapValues) -> list[Item]:
    """Return the names of vectors too long to list: the SHA-256 of their values as little-endian float32."""
    concept = Concept(*sr_codes.UNLISTED_VECTOR, "Vector that is not listed, SHA-256 of float32 values")
    return [Item(CONTAINS, concept, Text(sr_codes.unlisted(tap.name, tap.values))) for tap in taps]


def derivation(value: Concept) -> Item:
    """Return the child of a number that states its derivation."""
    return Item(HAS_CONCEPT_MOD, Concept(*sr_codes.DERIVATION, "Derivation"), value)


def measured_by(code: str, meaning: str) -> Item:
    """Return the child of a number that states its Measurement Method, in the private scheme."""
    named = Concept(*sr_codes.METHOD, "Measurement Method")
    return Item(HAS_CONCEPT_MOD, named, Concept(sr_codes.SCHEME, code, meaning))


def unit_of(quantity: str) -> Concept:
    """Return the unit at the end of a quantity's name, the longest match first; `1` where there is none."""
    return next((unit for end, unit in QUANTITY_UNITS.items() if quantity.endswith(f"_{end}")), NO_UNITS)
