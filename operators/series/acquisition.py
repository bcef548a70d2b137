"""How a series was acquired, according to all of its slices, never to just one.

A value is reported if all slices that have it agree. If they differ, it is null and a finding names it; mAs, which tube
current modulation changes from slice to slice, is averaged.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

from pydicom.dataset import Dataset

from operators.dicom.header import plain
from operators.dicom.values import number_in, numbers_in, text_in, texts_in
from operators.printable import printable
from operators.record import Acquisition
from operators.types import Finding

ONE_VALUE: Final = (
    *("PatientName", "PatientBirthDate", "PatientSex", "PatientAge", "StudyDate", "SeriesDate", "Modality"),
    *("Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "KVP", "SliceThickness", "ContrastBolusAgent"),
    *("BodyPartExamined", "ImageType"),
)
"""Elements that the record reports once for the whole series."""

ABSENT_COUNTS: Final = frozenset({"ContrastBolusAgent"})
"""Elements whose absence from a slice is information: no contrast agent was given."""

_EXPOSURE: Final = ("Exposure", "XRayTubeCurrent", "ExposureTime")


def acquisition_of(headers: Sequence[Dataset], *, with_dates: bool) -> Acquisition:
    """Return how a series was acquired.

    Args:
        headers: headers of its slices.
        with_dates: whether to report the dates of study and series.
    """
    kinds = distinct(headers, "ImageType")
    return Acquisition(
        manufacturer=one_text(headers, "Manufacturer"),
        model=one_text(headers, "ManufacturerModelName"),
        kernel=one_text(headers, "ConvolutionKernel"),
        kvp=one_number(headers, "KVP"),
        mas=_mean_mas(headers),
        thickness_mm=one_number(headers, "SliceThickness"),
        contrast=one_text(headers, "ContrastBolusAgent"),
        body_part=one_text(headers, "BodyPartExamined"),
        image_type=texts_in(kinds[0], "ImageType") if len(_values(kinds, "ImageType")) == 1 else (),
        study_date=one_text(headers, "StudyDate") if with_dates else None,
        series_date=one_text(headers, "SeriesDate") if with_dates else None,
    )


def mixed_findings(headers: Sequence[Dataset]) -> list[Finding]:
    """Return findings for values that differ between slices but should be series-wide; identities are not repeated."""
    mixed = [keyword for keyword in ONE_VALUE if len(_values(distinct(headers, keyword), keyword)) > 1]
    findings = []
    if "ConvolutionKernel" in mixed:
        findings.append(Finding("MIXED_KERNEL", f"kernel {_counted(headers, 'ConvolutionKernel')}"))
    if "KVP" in mixed:
        findings.append(Finding("MIXED_KVP", f"kV {_counted(headers, 'KVP')}"))
    if others := [keyword for keyword in mixed if keyword not in ("ConvolutionKernel", "KVP")]:
        verb = "differ" if len(others) > 1 else "differs"
        findings.append(Finding("MIXED_VALUES", f"{', '.join(others)} {verb} between slices; no value is reported"))
    return findings


def distinct(headers: Sequence[Dataset], keyword: str) -> list[Dataset]:
    """Return one header for each distinct value of an element: in nearly all series, one for all slices."""
    found: dict[object, Dataset] = {}
    for header in headers:
        found.setdefault(plain(header.get(keyword)), header)
    return list(found.values())


def one_text(headers: Sequence[Dataset], keyword: str) -> str | None:
    """Return the text of an element; None where it is missing everywhere or slices disagree."""
    texts = _values(distinct(headers, keyword), keyword)
    return texts.pop() or None if len(texts) == 1 else None


def one_number(headers: Sequence[Dataset], keyword: str) -> float | None:
    """Return the finite number of an element; None where it is missing everywhere or slices disagree."""
    kinds = distinct(headers, keyword)
    if len(_values(kinds, keyword)) != 1:
        return None
    return next((number for header in kinds if (number := number_in(header, keyword)) is not None), None)


def _values(headers: Sequence[Dataset], keyword: str) -> set[str]:
    """Return the distinct values as text, without the empty one unless it is information or the only value."""
    texts = {_text(header, keyword) for header in headers}
    return texts if keyword in ABSENT_COUNTS or len(texts) == 1 else texts - {""}


def _text(header: Dataset, keyword: str) -> str:
    """Return a value as text; numbers with the fewest digits."""
    numbers = numbers_in(header, keyword)
    return "\\".join(f"{number:g}" for number in numbers) if numbers else text_in(header, keyword)


def _counted(headers: Sequence[Dataset], keyword: str) -> str:
    """Return the most frequent values of an element, shortened, with the number of slices that have each."""
    counts = Counter(_text(header, keyword) for header in headers)
    shown = ", ".join(f"{printable(value)[:32] or 'unknown'} in {count}" for value, count in counts.most_common(4))
    return f"{shown} of {len(headers)} slices"


def _mean_mas(headers: Sequence[Dataset]) -> float | None:
    """Return the mean mAs over the slices that state it."""
    if all(len(distinct(headers, keyword)) == 1 for keyword in _EXPOSURE):
        return _mas(headers[0])
    known = [mas for header in headers if (mas := _mas(header)) is not None]
    return math.fsum(known) / len(known) if known else None


def _mas(header: Dataset) -> float | None:
    """Return Exposure (0018,1152) in mAs, or else tube current in mA × exposure time in ms / 1000 (PS3.3 C.8.2.1)."""
    exposure = number_in(header, "Exposure")
    if exposure is not None:
        return exposure
    current, time_ms = number_in(header, "XRayTubeCurrent"), number_in(header, "ExposureTime")
    return None if current is None or time_ms is None else current * time_ms / 1000.0
