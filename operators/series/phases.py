"""Slices of one orientation that are several volumes → which slice is of which: phases, time points, kernels.

Only what the headers say tells them apart, and it must do so wholly: see `tell_apart`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from operators.dicom.header import plain
from operators.geometry.grid import numbers_in, regular_grid
from operators.geometry.stack import SAME_POSITION_MM
from operators.types import SeriesRejected

VOLUME_TAGS: Final = (
    *("AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionIndex", "NominalPercentageOfCardiacPhase"),
    *("NominalPercentageOfRespiratoryPhase", "TemporalPositionTimeOffset", "StackID"),
    *("ConvolutionKernel", "SliceThickness", "ImageType", "KVP"),
)
"""What a volume has one value of, wherever its slices lie: two values are two volumes."""

STEADY_TAGS: Final = frozenset(
    {
        *("TemporalPositionIdentifier", "TemporalPositionIndex", "NominalPercentageOfCardiacPhase"),
        *("NominalPercentageOfRespiratoryPhase", "ConvolutionKernel", "KVP"),
    }
)
"""Of these a volume has one value indeed, whatever told it apart: where it has two, it is mixed of two. Of the others
scanners write several within a scan."""

ORDER_TAGS: Final = ("TriggerTime", "AcquisitionTime", "ContentTime", "AcquisitionNumber", "InstanceNumber")
"""What may rise from slice to slice, and tells volumes apart where it rises from one to the next: all of the first come
before all of the second."""

MIN_STACK: Final = 4
"""Slices of which one volume at least must consist; as in the gate, which can tell a gap among them."""

_Group = tuple[int, ...]
_Spots = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class ToldApart:
    """Volumes among slices.

    Attributes:
        volumes: indices of the slices of each, in the order of what tells them apart.
        keywords: what does.
    """

    volumes: tuple[_Group, ...]
    keywords: tuple[str, ...]


def tell_apart(headers: Sequence[Dataset], heights_mm: NDArray[np.float64]) -> ToldApart | None:
    """The volumes among slices of one orientation; None where they are one, or where nothing tells them apart.

    Where positions come several times: by the value of a tag, or of two, of which there are as many as slices at one
    position, each value once at a position; else by a tag that rises from one volume to the next, if every volume has a
    slice at every position. Where each position comes once: by a tag of whose values each has a regular stack, all over
    the same range; the table came to rest a little off the second time. Each volume must have one kernel, one kV and
    one phase, whatever told it apart.

    Args:
        headers: of the slices.
        heights_mm: of the slices along their normal.
    """
    spots = _spots(heights_mm)
    at_most = int(np.bincount(spots).max())
    values = {keyword: _values(headers, keyword) for keyword in VOLUME_TAGS if len(differing(headers, keyword)) > 1}
    values = {keyword: found for keyword, found in values.items() if len(set(found)) > 1}
    if at_most > 1:
        found: Iterator[ToldApart] = chain(_by_value(values, spots, at_most), _by_order(headers, spots, at_most))
    else:
        found = _by_range(headers, values, heights_mm)
    return next((told for told in found if _steady(told, values)), None)


def differing(headers: Sequence[Dataset], keyword: str) -> list[Any]:
    """The value of a tag, once where all headers have the same, else each header's; None for none."""
    found = [plain(header.get(keyword)) for header in headers]
    return found[:1] if all(value == found[0] for value in found) else found


def is_stack(headers: Sequence[Dataset]) -> bool:
    """Whether slices pass the gate as one regular grid."""
    if len(headers) < MIN_STACK:
        return False
    try:
        regular_grid(headers)
    except SeriesRejected:
        return False
    return True


def _steady(told: ToldApart, values: dict[str, list[Any]]) -> bool:
    return all(
        len({values[keyword][i] for i in volume}) == 1
        for keyword in STEADY_TAGS & values.keys()
        for volume in told.volumes
    )


def _by_value(values: dict[str, list[Any]], spots: _Spots, at_most: int) -> Iterator[ToldApart]:
    for keywords in (*combinations(values, 1), *combinations(values, 2)):
        groups = _grouped(list(zip(*(values[keyword] for keyword in keywords), strict=True)))
        if len(groups) == at_most and all(_once(spots, group) for group in groups) and _enough(groups):
            yield ToldApart(groups, keywords)


def _by_order(headers: Sequence[Dataset], spots: _Spots, at_most: int) -> Iterator[ToldApart]:
    positions = len(set(spots.tolist()))
    for keyword in ORDER_TAGS:
        moments = [moment for header in headers if (moment := _moment(header, keyword))]
        if len(moments) < len(headers):
            continue
        blocks = _blocks(moments, spots)
        rising = all(moments[one[-1]] < moments[other[0]] for one, other in pairwise(blocks))
        if rising and len(blocks) == at_most and {len(block) for block in blocks} == {positions} and _enough(blocks):
            yield ToldApart(tuple(tuple(sorted(block)) for block in blocks), (keyword,))


def _blocks(moments: Sequence[tuple[str, float]], spots: _Spots) -> list[list[int]]:
    """Slices in the order of their moments; another block begins where a position comes again."""
    blocks: list[list[int]] = []
    met: set[int] = set()
    for i in sorted(range(len(moments)), key=lambda i: moments[i]):
        if not blocks or int(spots[i]) in met:
            blocks.append([])
            met = set()
        blocks[-1].append(i)
        met.add(int(spots[i]))
    return blocks


def _by_range(
    headers: Sequence[Dataset], values: dict[str, list[Any]], heights_mm: NDArray[np.float64]
) -> Iterator[ToldApart]:
    for keyword, found in values.items():
        groups = _grouped(found)
        if min(map(len, groups)) < MIN_STACK:
            continue
        low = np.array([heights_mm[list(group)].min() for group in groups])
        high = np.array([heights_mm[list(group)].max() for group in groups])
        same_range = high.min() - low.max() >= (high - low).min() / 2
        if same_range and all(is_stack([headers[i] for i in group]) for group in groups):
            yield ToldApart(groups, (keyword,))


def _spots(heights: NDArray[np.float64]) -> _Spots:
    """Slices at one position have one number."""
    order = np.argsort(heights, kind="stable")
    spots = np.zeros(len(heights), np.intp)
    spots[order[1:]] = np.cumsum(np.diff(heights[order]) >= SAME_POSITION_MM)
    return spots


def _values(headers: Sequence[Dataset], keyword: str) -> list[Any]:
    """Numbers sort as numbers, and all else as text."""
    found = []
    for header in headers:
        number = numbers_in(header, keyword)
        value = plain(header.get(keyword) or "")
        text = "\\".join(map(str, value)) if isinstance(value, tuple) else str(value)
        found.append((0, number[0], "") if len(number) == 1 else (1, 0.0, text))
    return found


def _grouped(values: Sequence[Any]) -> tuple[_Group, ...]:
    groups: dict[Any, list[int]] = {}
    for i, value in enumerate(values):
        groups.setdefault(value, []).append(i)
    return tuple(tuple(groups[value]) for value in sorted(groups))


def _once(spots: _Spots, group: _Group) -> bool:
    return len(set(spots[list(group)].tolist())) == len(group)


def _enough(groups: Sequence[Sequence[int]]) -> bool:
    return max(map(len, groups)) >= MIN_STACK


def _moment(header: Dataset, keyword: str) -> tuple[str, float] | None:
    """A number, or the date and time of day (VR DA and TM, PS3.5 6.2) in seconds; None where there is none."""
    if not keyword.endswith("Time") or keyword == "TriggerTime":
        found = numbers_in(header, keyword)
        return ("", found[0]) if len(found) == 1 and np.isfinite(found[0]) else None
    time = str(header.get(keyword) or "").replace(":", "")
    digits, _, fraction = time.partition(".")
    if not (digits + fraction).isascii() or not digits.isdigit() or len(digits) not in (2, 4, 6):
        return None
    hours, minutes, seconds = (int(digits[at : at + 2] or 0) for at in (0, 2, 4))
    part = float(f"0.{fraction}") if fraction.isdigit() else 0.0
    return str(header.get(keyword.replace("Time", "Date")) or ""), 3600 * hours + 60 * minutes + seconds + part
