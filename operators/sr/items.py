"""Access to the content items of an SR (PS3.3 C.17.3) in a data set, with pydicom alone.

Missing optional parts come back empty; a missing mandatory part raises AttributeError or IndexError.
"""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset

from operators.errors import CtvaeError
from operators.sr import codes as sr_codes
from operators.sr.codes import Code


def value_of(item: Dataset) -> str:
    """Return the value of an item as text, by its value type."""
    kind = item.get("ValueType")
    if kind == "NUM" and item.get("MeasuredValueSequence"):
        measured = item.MeasuredValueSequence[0]
        units = measured.get("MeasurementUnitsCodeSequence") or [Dataset()]
        unit = units[0].get("CodeValue", "")
        return f"{measured.get('NumericValue', '')}{'' if unit in ('', '1') else ' ' + unit}"
    if kind == "CODE" and item.get("ConceptCodeSequence"):
        return str(item.ConceptCodeSequence[0].get("CodeMeaning", ""))
    if kind == "IMAGE" and item.get("ReferencedSOPSequence"):
        image = item.ReferencedSOPSequence[0]
        frame = image.get("ReferencedFrameNumber")
        return f"{image.get('ReferencedSOPInstanceUID', '')}{'' if frame is None else f', frame {frame}'}"
    return str(item.get({"TEXT": "TextValue", "UIDREF": "UID", "PNAME": "PersonName"}.get(str(kind), ""), "") or "")


def derivation_of(item: Dataset) -> Code | None:
    """Return the derivation of a NUM (DCM 121401); None where it has none."""
    for child in children(item):
        if name_of(child) == sr_codes.DERIVATION:
            return code_of(child.ConceptCodeSequence[0])
    return None


def only(parent: Dataset, name: Code) -> Dataset:
    """Return the only child with this name.

    Raises:
        CtvaeError: `BROKEN_SR`: there is no such child, or there are several.
    """
    found = [item for item in children(parent) if name_of(item) == name]
    if len(found) != 1:
        raise CtvaeError("BROKEN_SR", f"the SR has {len(found)} items {name[1]} ({name[0]}) in one place; expected one")
    return found[0]


def number_of(item: Dataset, unit: Code | None = sr_codes.NO_UNITS) -> np.float32:
    """Return a NUM, whose decimal and double must be the same finite number; a percentage as a fraction.

    Args:
        item: an item of the SR.
        unit: the unit that it must have; None for any.

    Raises:
        CtvaeError: `BROKEN_SR`.
    """
    decimal, double, found = _measured(item, unit)
    if found == sr_codes.PERCENT:
        value, same = sr_codes.from_percent(decimal), double == float(decimal)
    else:
        value, same = _single(decimal, double)
    return _sound(item, value, same)


def percentage_of(item: Dataset) -> np.float32:
    """Return a NUM in percent as a percentage.

    Raises:
        CtvaeError: `BROKEN_SR`.
    """
    decimal, double, _ = _measured(item, sr_codes.PERCENT)
    return _sound(item, *_single(decimal, double))


def _measured(item: Dataset, unit: Code | None) -> tuple[str, float, Code]:
    """Return decimal, double and unit of a NUM."""
    measured = item.MeasuredValueSequence[0]
    found = code_of(measured.MeasurementUnitsCodeSequence[0])
    if unit is not None and found != unit:
        raise CtvaeError("BROKEN_SR", f"{name_of(item)[1]} has a unit other than {unit[1]}; encode the series again")
    return str(measured.NumericValue), float(measured.FloatingPointValue), found


def _single(decimal: str, double: float) -> tuple[np.float32, bool]:
    value = np.float32(decimal)
    return value, np.float64(value).tobytes() == np.float64(double).tobytes()


def _sound(item: Dataset, value: np.float32, same: bool) -> np.float32:
    if not same or not np.isfinite(value):
        raise CtvaeError("BROKEN_SR", f"{name_of(item)[1]} has two different values; encode the series again")
    return value


def parameters_of(group: Dataset) -> dict[str, str]:
    """Return the algorithm parameters (TID 4019) of a measurement group, by name."""
    texts = [str(item.TextValue) for item in children(group) if name_of(item) == sr_codes.ALGORITHM_PARAMETERS]
    return dict(text.split("=", 1) for text in texts)


def children(item: Dataset) -> list[Dataset]:
    """Return the child items, in order."""
    return list(item.get("ContentSequence") or [])


def name_of(item: Dataset) -> Code:
    """Return the code of an item's concept name."""
    names = item.get("ConceptNameCodeSequence")
    return code_of(names[0]) if names else ("", "")


def code_of(item: Dataset) -> Code:
    """Return the code of an item of a code sequence, from whichever value element holds it."""
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue") or ""
    return (str(item.get("CodingSchemeDesignator", "")), str(value))


def meaning_of(item: Dataset) -> str:
    """Return the meaning of an item's concept name."""
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].get("CodeMeaning", "")) if names else ""
