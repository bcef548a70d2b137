"""Selection rules in the SDK's JSON, with the meaning that `DICOMSeriesSelectorOperator` of SDK 4.0.0 gives them.

`{"selections": [{"name": …, "conditions": {keyword: what to match, …}}, …]}`. The type of the header's value decides
how
a condition is read:

- a text: equal, ignoring case, or a regular expression found in it;
- a number: `[2, ">"]` (also >=, <, <=, !=), `[3, 5]` for a range including its ends, a number, or a regular expression
  for the whole number;
- several values: a term or a list of terms, each of which must occur, ignoring case, in Python's text of all values, or
  must not occur if it begins with `!`;
- ImageOrientationPatient: Axial, Coronal or Sagittal.

An attribute that is missing, empty or zero matches nothing, and an empty condition is ignored. Where the SDK raises on
a value, the condition does not hold here; but a list of terms is compared with a single text as with several values.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

from operators.dicom.file_format import NUMBER_VRS
from operators.dicom.read_header import HEADER_TAGS
from operators.errors import StartError
from operators.series.rule import orientation
from operators.series.text_pattern import check_pattern, matches, matches_whole
from operators.types import Series

COMPARISONS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "!=": operator.ne,
}
PLANES: Final = ("axial", "coronal", "sagittal")
POSITIONS: Final = frozenset({"HFP", "HFS", "HFDL", "HFDR", "FFP", "FFS", "FFDL", "FFDR"})
PIXEL_SPACINGS: Final = {"row_pixel_spacing": 0, "col_pixel_spacing": 1}
"""Two attributes that the SDK derives, with their index in PixelSpacing."""

_NOT_COMPARED: Final = frozenset({"PN", "UN"})  # the SDK raises on a person's name and on bytes


@dataclass(frozen=True, slots=True)
class SdkRule:
    """One selection: a name, and conditions that must all hold.

    Attributes:
        name: the rule's name in findings.
        conditions: (attribute, what to match), checked; conditions that the SDK ignores are left out.
    """

    name: str
    conditions: tuple[tuple[str, Any], ...]

    def unmet(self, series: Series) -> tuple[str, ...]:
        """Return each unmet condition; values are not repeated, for they may identify the patient."""
        return tuple(
            f"{keyword}: no match" for keyword, condition in self.conditions if not _holds(keyword, condition, series)
        )


def parse_sdk_rules(document: object) -> tuple[SdkRule, ...]:
    """Return rules from parsed JSON; a selection without conditions selects nothing, as in the SDK, and is left out.

    Raises:
        StartError: `SETTINGS_INVALID`, naming the selection and the attribute: ctvae does not read the attribute, or
            the condition has no meaning in the SDK.
    """
    selections = document.get("selections") if isinstance(document, Mapping) else None
    if not isinstance(selections, list) or not selections:
        raise _invalid("no list of selections", "the SDK's {selections: [{name, conditions}, …]}")
    rules = (_rule(selection, number) for number, selection in enumerate(selections, 1))
    return tuple(rule for rule in rules if rule is not None)


def _rule(selection: object, number: int) -> SdkRule | None:
    if not isinstance(selection, Mapping):
        raise _invalid(f"selection {number}, which is not a mapping", "name and conditions")
    name = str(selection.get("name") or "").strip() or f"selection {number}"
    if len(name) > 64 or not name.isprintable():
        raise _invalid(f"a name of selection {number} that is too long or not printable", "64 characters at most")
    conditions = selection.get("conditions") or None
    if conditions is None:
        return None
    if not isinstance(conditions, Mapping):
        raise _invalid(f"conditions of {name} that are not a mapping", "keyword: what to match")
    checked = tuple((str(keyword), value) for keyword, value in conditions.items() if value)
    for keyword, value in checked:
        if wrong := _wrong(keyword, value):
            raise _invalid(f"{keyword} in {name}: {wrong}", "what docs/selection.md lists")
    return SdkRule(name, checked)


def _wrong(keyword: str, condition: object) -> str | None:
    """Return what is wrong with a condition; None where the SDK defines its meaning."""
    vr = "DS" if keyword in PIXEL_SPACINGS else _vr(keyword)
    if vr is None or vr in _NOT_COMPARED:
        return "an attribute that ctvae does not read or cannot match"
    if keyword == "ImageOrientationPatient":
        fits = isinstance(condition, str) and condition.strip().lower() in PLANES
        return None if fits else "not Axial, Coronal or Sagittal"
    if isinstance(condition, str):
        return _wrong_pattern(condition)
    if isinstance(condition, list) and all(isinstance(part, str | int | float) for part in condition):
        is_number = vr in NUMBER_VRS or vr in ("DS", "IS")
        return (
            None if not is_number or _several(keyword) or _comparison(condition) else "neither a range nor a comparison"
        )
    if isinstance(condition, int | float) and not isinstance(condition, bool):
        return None
    return "not a text, a number or a list of these"


def _wrong_pattern(condition: str) -> str | None:
    try:
        check_pattern(condition)
    except ValueError as error:
        return str(error)
    return None


def _vr(keyword: str) -> str | None:
    """Return the VR of an element that ctvae reads."""
    tag = tag_for_keyword(keyword) if keyword in HEADER_TAGS else None
    return None if tag is None else dictionary_VR(tag).replace("US or SS", "US")


def _several(keyword: str) -> bool:
    return keyword not in PIXEL_SPACINGS and dictionary_VM(keyword) != "1"


def _comparison(condition: list[Any]) -> Callable[[float], bool] | None:
    """Return the test that `[value, ">"]` or `[low, high]` applies to a number; None for any other list."""
    if len(condition) != 2:
        return None
    first, second = condition
    if isinstance(second, str):
        compare = COMPARISONS.get(second)
        try:
            value = float(first)
        except ValueError:
            return None
        return None if compare is None else lambda found: compare(found, value)
    if isinstance(first, str):
        return None
    return lambda found: bool(first <= found <= second)


def _holds(keyword: str, condition: Any, series: Series) -> bool:
    header = series.first
    if keyword == "ImageOrientationPatient":
        in_scanner = str(header.get("PatientPosition") or "") in POSITIONS
        return in_scanner and orientation(series) == condition.strip().lower()
    found, terms = _found(keyword, series)
    if terms is not None:
        return _terms_fit(condition, terms)
    if not found:
        return False
    if isinstance(found, int | float):
        return _number_fits(condition, found)
    if isinstance(found, str) and isinstance(condition, str):
        return found.casefold() == condition.casefold() or matches(condition, found)
    if isinstance(found, str) and isinstance(condition, list):  # one value of an element that may have several
        return _terms_fit(condition, repr([found]).lower())
    return False


def _found(keyword: str, series: Series) -> tuple[Any, str | None]:
    """Return an attribute's value; several values as Python's text of all, in lower case, as the SDK does."""
    header: Dataset = series.first
    if keyword in PIXEL_SPACINGS:
        spacing = header.get("PixelSpacing")
        several = spacing is not None and not isinstance(spacing, str) and hasattr(spacing, "__len__")
        return (spacing[PIXEL_SPACINGS[keyword]] if several and len(spacing) == 2 else None), None
    if keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        return (series.study_instance_uid if keyword.startswith("Study") else series.series_instance_uid), None
    if keyword not in header:
        return None, None
    element = header[keyword]
    if element.VM > 1:
        return None, str([element.repval]).lower()
    return element.value, None


def _number_fits(condition: Any, found: float) -> bool:
    if isinstance(condition, list):
        fits = _comparison(condition)
        return fits is not None and fits(found)
    if isinstance(condition, str):
        return matches_whole(condition, str(found))
    return bool(condition == found)


def _terms_fit(condition: Any, text: str) -> bool:
    terms = {str(term).lower() for term in (condition if isinstance(condition, list) else [condition])}
    return all(term[1:] not in text if term.startswith("!") else term in text for term in terms)


def _invalid(found: str, expected: str) -> StartError:
    return StartError("SETTINGS_INVALID", f"selection.sdk_rules: found {found}; expected {expected}")
