"""One selection rule, and whether a series fits it, judged by headers alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import numpy as np

from operators.dicom.values import number_in, numbers_in, text_in, texts_in
from operators.series.text_pattern import check_pattern, matches
from operators.types import Series

Orientation = Literal["axial", "coronal", "sagittal"]
MAX_NAME: Final = 64
_FORBID_UNKNOWN_KEYS: Final = {"extra": "forbid"}  # pydantic's, where settings are read


@dataclass(frozen=True, slots=True)
class Range:
    """From `min` to `max`, both included; None leaves that end open."""

    __pydantic_config__: ClassVar = _FORBID_UNKNOWN_KEYS

    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        ends = [end for end in (self.min, self.max) if end is not None]
        if not ends or not all(map(math.isfinite, ends)) or ends != sorted(ends):
            raise ValueError("expected min, max or both, in this order")
        if ends[0] < 0:
            raise ValueError(f"found {ends[0]:g}; expected a number from 0 on")

    def beyond(self, low: float, high: float) -> str | None:
        """Return what part of `low` to `high` lies outside; None where all is inside."""
        if self.min is not None and low < self.min:
            return f"{low:g} is below {self.min:g}"
        if self.max is not None and high > self.max:
            return f"{high:g} is above {self.max:g}"
        return None


@dataclass(frozen=True, slots=True)
class ImageTypeRule:
    """Values that ImageType must and must not contain; whole values, ignoring case."""

    __pydantic_config__: ClassVar = _FORBID_UNKNOWN_KEYS

    contains: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.contains and not self.excludes:
            raise ValueError("expected contains, excludes or both")


@dataclass(frozen=True, slots=True)
class Rule:
    """A name and conditions that must all hold; a rule without conditions accepts every CT series.

    Patterns are regular expressions, searched in the text, ignoring case (see `operators.series.text_pattern`).

    Attributes:
        name: the rule's name in findings.
        modality: Modality, the whole value, ignoring case.
        description: pattern for SeriesDescription.
        exclude_description: pattern that SeriesDescription must not match.
        kernel: pattern for ConvolutionKernel.
        body_part: pattern for BodyPartExamined.
        image_type: condition on ImageType of every instance.
        thickness_mm: range of SliceThickness of every instance.
        slices: range of the number of slices.
        orientation: plane nearest to the slices.
    """

    __pydantic_config__: ClassVar = _FORBID_UNKNOWN_KEYS

    name: str
    modality: str | None = None
    description: str | None = None
    exclude_description: str | None = None
    kernel: str | None = None
    body_part: str | None = None
    image_type: ImageTypeRule | None = None
    thickness_mm: Range | None = None
    slices: Range | None = None
    orientation: Orientation | None = None

    def __post_init__(self) -> None:
        if not self.name.strip() or len(self.name) > MAX_NAME or not self.name.isprintable():
            raise ValueError(
                f"found a name that is empty, too long or not printable; expected 1 to {MAX_NAME} printable characters"
            )
        for pattern in (self.description, self.exclude_description, self.kernel, self.body_part):
            if pattern is not None:
                check_pattern(pattern)

    def unmet(self, series: Series) -> tuple[str, ...]:
        """Return each unmet condition with the reason; empty where the series fits.

        Texts that a person typed at the scanner are not repeated, for they may hold a name.
        """

        def is_given(keyword: str) -> bool:
            return getattr(self, keyword) is not None

        checked = ((keyword, check(self, series)) for keyword, check in _CHECKS.items() if is_given(keyword))
        return tuple(f"{keyword}: {why}" for keyword, why in checked if why)


def count_slices(series: Series) -> int:
    """Return the number of instances or, for a multi-frame file not yet separated, of the frames it declares."""
    frames = (
        1 if instance.frame else number_in(instance.header, "NumberOfFrames") or 1 for instance in series.instances
    )
    return sum(max(1, int(number)) for number in frames)


def thickness_mm(series: Series) -> tuple[float, float] | None:
    """Return the smallest and largest SliceThickness of the series in mm; None where an instance has none."""
    found = [number_in(instance.header, "SliceThickness") for instance in series.instances]
    known = [value for value in found if value is not None]
    return (min(known), max(known)) if len(known) == len(found) else None


def text_of(series: Series, keyword: str) -> str:
    """Return a text of the series, values joined by backslashes as in the file; empty where it is missing."""
    return text_in(series.first, keyword)


def orientation(series: Series) -> Orientation | None:
    """Return the plane nearest to the slices, by their normal (PS3.3 C.7.6.2.1.1); None where it is not known."""
    cosines = numbers_in(series.first, "ImageOrientationPatient")
    if len(cosines) != 6:
        return None
    row, column = np.array(cosines).reshape(2, 3)
    normal = np.abs(np.cross(row, column))
    if not np.isfinite(normal).all() or normal.max() < 0.5:
        return None
    planes: tuple[Orientation, ...] = ("sagittal", "coronal", "axial")
    return planes[int(normal.argmax())]


def _modality(rule: Rule, series: Series) -> str | None:
    found = text_of(series, "Modality")
    return None if found.upper() == str(rule.modality).upper() else f"{_shown(found)} is not {rule.modality}"


def _description(rule: Rule, series: Series) -> str | None:
    return _unmatched(rule.description, text_of(series, "SeriesDescription"), "SeriesDescription")


def _exclude_description(rule: Rule, series: Series) -> str | None:
    pattern = str(rule.exclude_description)
    return f"SeriesDescription matches {pattern}" if matches(pattern, text_of(series, "SeriesDescription")) else None


def _kernel(rule: Rule, series: Series) -> str | None:
    found = text_of(series, "ConvolutionKernel")
    return _unmatched(rule.kernel, found, _shown(found))


def _body_part(rule: Rule, series: Series) -> str | None:
    found = text_of(series, "BodyPartExamined")
    return _unmatched(rule.body_part, found, _shown(found))


def _unmatched(pattern: str | None, found: str, called: str) -> str | None:
    """Return why a text does not match a pattern; a missing text matches no pattern."""
    if found and matches(str(pattern), found):
        return None
    return f"{called} does not match {pattern}" if found else "absent"


def _image_type(rule: Rule, series: Series) -> str | None:
    wanted = rule.image_type
    assert wanted is not None
    for instance in series.instances:
        found = {value.upper() for value in texts_in(instance.header, "ImageType")}
        if missing := [value for value in wanted.contains if value.upper() not in found]:
            return f"no {missing[0]}"
        if unwanted := [value for value in wanted.excludes if value.upper() in found]:
            return f"has {unwanted[0]}"
    return None


def _thickness(rule: Rule, series: Series) -> str | None:
    assert rule.thickness_mm is not None
    found = thickness_mm(series)
    return rule.thickness_mm.beyond(*found) if found else "SliceThickness is missing"


def _slices(rule: Rule, series: Series) -> str | None:
    assert rule.slices is not None
    number = count_slices(series)
    return rule.slices.beyond(number, number)


def _orientation(rule: Rule, series: Series) -> str | None:
    found = orientation(series)
    return None if found == rule.orientation else f"{found or 'unknown'} is not {rule.orientation}"


_CHECKS: Final[dict[str, Callable[[Rule, Series], str | None]]] = {
    "modality": _modality,
    "body_part": _body_part,
    "orientation": _orientation,
    "image_type": _image_type,
    "description": _description,
    "exclude_description": _exclude_description,
    "kernel": _kernel,
    "thickness_mm": _thickness,
    "slices": _slices,
}
"""Condition → function that returns why a series does not meet it, None where it does."""


def _shown(code: str) -> str:
    """Return a value set by the scanner, shortened for a message."""
    return code[:32] if code.isprintable() else "what is there"
