"""Slices whose headers or files lack something → what can still be read of them, where a policy asks for it."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from operators.dicom.pixel_format import AIR_HU, PixelFormat, pixel_format
from operators.errors import SeriesRejected
from operators.geometry.policy import GeometryPolicy
from operators.types import Finding

_ASSUMED = {"RescaleSlope": 1.0, "RescaleIntercept": 0.0}


def formats_of(headers: Sequence[Dataset], policy: GeometryPolicy) -> tuple[list[PixelFormat], list[Finding]]:
    """Return how the pixels of each slice are stored; with `missing_rescale: assume_hu`, as HU by default.

    Slope 1 and intercept 0 are assumed for all slices or for none: where some slices have a rescale, the meaning of the
    others is not known. They are assumed only where air, -1000 HU, can be stored: unsigned values without an intercept
    are not HU.

    Raises:
        SeriesRejected: see `pixel_format`; and `MISSING_RESCALE` where the assumption is impossible.
    """
    lacking = [_lacks(header) for header in headers] if policy.missing_rescale == "assume_hu" else []
    if not lacking or not all(lacking):
        return [pixel_format(header) for header in headers], []
    formats = [pixel_format(_with_rescale(header)) for header in headers]
    for pixels in formats:
        lowest = pixels.stored_range[0] * pixels.slope + pixels.intercept
        if lowest > AIR_HU:
            raise SeriesRejected(
                "MISSING_RESCALE",
                f"no rescale slope or intercept, and stored values end at {lowest:g}; expected both: values that "
                f"cannot be {AIR_HU} HU are not HU",
            )
    assumed = ", ".join(f"{slope:g} and {intercept:g}" for slope, intercept in _rescales(formats))
    return formats, [Finding("RESCALE_ASSUMED", f"no usable rescale: slope and intercept are assumed to be {assumed}")]


def _rescales(formats: Sequence[PixelFormat]) -> list[tuple[float, float]]:
    return sorted({(pixels.slope, pixels.intercept) for pixels in formats})


def _lacks(header: Dataset) -> bool:
    return not _given(header, "RescaleSlope") or header.get("RescaleIntercept") is None


def _given(header: Dataset, keyword: str) -> bool:
    """Return whether a value is stated; a slope of zero does not count."""
    value = header.get(keyword)
    return value is not None and not (keyword == "RescaleSlope" and value == 0)


def _with_rescale(header: Dataset) -> Dataset:
    """Return a copy of a header with the missing values filled in."""
    completed = Dataset({tag: header.get_item(tag) for tag in header.keys()})  # noqa: SIM118 — would convert
    completed.file_meta = header.file_meta
    for keyword, value in _ASSUMED.items():
        if not _given(header, keyword):
            completed[keyword] = DataElement(Tag(keyword), "DS", value, already_converted=True)
    return completed
