"""Slices of one orientation → the volumes they belong to: phases, passes, time points, kernels.

Only header values divide them, and they must divide them completely: see `divide`.
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
from operators.dicom.values import numbers_in, text_in
from operators.geometry.grid import is_regular, regular_spacing_mm
from operators.geometry.planes import Planes
from operators.geometry.policy import MIN_SLICES
from operators.geometry.stack import SAME_POSITION_MM, allowed_off_grid_mm, places_with_gaps

VOLUME_TAGS: Final = (
    *("AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionIndex", "NominalPercentageOfCardiacPhase"),
    *("NominalPercentageOfRespiratoryPhase", "TemporalPositionTimeOffset", "StackID"),
    *("ConvolutionKernel", "SliceThickness", "ImageType", "KVP"),
)
"""Tags with one value per volume, wherever its slices lie: two values mean two volumes."""

STEADY_TAGS: Final = frozenset(
    {
        *("TemporalPositionIdentifier", "TemporalPositionIndex", "NominalPercentageOfCardiacPhase"),
        *("NominalPercentageOfRespiratoryPhase", "ConvolutionKernel", "KVP"),
    }
)
"""Tags with one value per volume, whatever divides the slices: a volume with two values is a mixture. Of the other
tags, scanners may write several values within one scan."""

ORDER_TAGS: Final = ("TriggerTime", "AcquisitionTime", "ContentTime", "AcquisitionNumber", "InstanceNumber")
"""Tags that may increase from slice to slice, and that divide volumes where they increase from one to the next: all
slices of the first come before all of the second."""

TIME_TAGS: Final = ("TriggerTime", "AcquisitionTime")
"""Tags that may also differ between several passes of the table; but within one regular stack they divide nothing."""

_Group = tuple[int, ...]
_Groups = tuple[_Group, ...]
_Spots = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Division:
    """A division of slices into volumes.

    Attributes:
        volumes: slice indices of each volume, ordered by the dividing values; a single volume where nothing divides.
        keywords: the tags that divide them.
    """

    volumes: _Groups
    keywords: tuple[str, ...] = ()


def divide(headers: Sequence[Dataset], planes: Planes) -> Division:
    """Divide slices of one orientation, matrix and pixel spacing into volumes.

    Slices that form one regular stack are one volume, unless the stacks of two values of a tag alternate in it and each
    is better off alone (see `_is_one_volume`). Otherwise, where a position occurs several times, they are divided by
    the value of one or two tags that has as many values as there are slices at one position, each value once per
    position; or by a tag that increases from one volume to the next, if every volume has a slice at every position.
    Otherwise by the tags whose values each have a regular stack, whether or not the stacks cover the same range.
    Whatever divides them, each volume must have one kernel, one kV and one phase.

    Args:
        headers: headers of the slices.
        planes: planes of the slices.
    """
    slices = _Slices(headers, planes)
    whole = Division((tuple(range(len(headers))),))
    if slices.at_most == 1:
        return next(_by_stack(slices), whole)
    steady = [found for found in chain(_by_value(slices), _by_order(slices)) if slices.steady(found.volumes)]
    regular = (found for found in steady if slices.all_regular(found.volumes))
    return next(chain(regular, _by_stack(slices), steady), whole)


class _Slices:
    """The slices to divide, with values that are needed more than once.

    Attributes:
        values: keyword → the value of each slice, for tags with several values.
        spots: the number of each slice's position.
        at_most: the largest number of slices at one position.
    """

    def __init__(self, headers: Sequence[Dataset], planes: Planes) -> None:
        self.headers, self.planes = headers, planes
        self.heights_mm = planes.heights_mm()
        self.spots = _spots(self.heights_mm)
        self.at_most = int(np.bincount(self.spots).max())
        read = {keyword: _values(headers, keyword) for keyword in VOLUME_TAGS if _differs(headers, keyword)}
        read |= {keyword: _moments(headers, keyword) for keyword in TIME_TAGS if _differs(headers, keyword)}
        self.values = {keyword: found for keyword, found in read.items() if len(set(found)) > 1}

    def groups(self, keywords: Sequence[str]) -> _Groups:
        """Return the slices by the values of the tags, in their order."""
        return _grouped(list(zip(*(self.values[keyword] for keyword in keywords), strict=True)))

    def steady(self, groups: _Groups) -> bool:
        """Return whether each group has one kernel, one kV and one phase."""
        steady = STEADY_TAGS & self.values.keys()
        return all(len({self.values[keyword][i] for i in group}) == 1 for keyword in steady for group in groups)

    def all_regular(self, groups: _Groups) -> bool:
        """Return whether each group is a regular stack."""
        return all(is_regular(self.planes.take(group)) for group in groups)


def _by_value(slices: _Slices) -> Iterator[Division]:
    tags = [keyword for keyword in VOLUME_TAGS if keyword in slices.values]
    for keywords in (*combinations(tags, 1), *combinations(tags, 2)):
        groups = slices.groups(keywords)
        if len(groups) == slices.at_most and all(_once(slices.spots, group) for group in groups) and _enough(groups):
            yield Division(groups, keywords)


def _by_order(slices: _Slices) -> Iterator[Division]:
    positions = len(set(slices.spots.tolist()))
    for keyword in ORDER_TAGS:
        moments = _moments(slices.headers, keyword)
        if not moments:
            continue
        blocks = _blocks(moments, slices.spots)
        rising = all(moments[earlier[-1]] < moments[later[0]] for earlier, later in pairwise(blocks))
        if (
            rising
            and len(blocks) == slices.at_most
            and {len(block) for block in blocks} == {positions}
            and _enough(blocks)
        ):
            yield Division(tuple(tuple(sorted(block)) for block in blocks), (keyword,))


def _blocks(moments: Sequence[tuple[str, float]], spots: _Spots) -> list[list[int]]:
    """Return slices in the order of their moments, in blocks; a block ends where a position occurs again."""
    blocks: list[list[int]] = []
    spots_taken: set[int] = set()
    for i in sorted(range(len(moments)), key=lambda i: moments[i]):
        if not blocks or int(spots[i]) in spots_taken:
            blocks.append([])
            spots_taken = set()
        blocks[-1].append(i)
        spots_taken.add(int(spots[i]))
    return blocks


def _by_stack(slices: _Slices) -> Iterator[Division]:
    """Yield the division into the fewest regular stacks; the first tags win where several give as many."""
    tags, pairs = list(slices.values), list(combinations(slices.values, 2))
    if tags and is_regular(slices.planes):
        tags, pairs = [keyword for keyword in tags if keyword not in TIME_TAGS], []
    found: list[Division] = []
    for keywords in (*combinations(tags, 1), *pairs):
        groups = slices.groups(keywords)
        if not _enough(groups) or not slices.steady(groups):
            continue
        if slices.at_most == 1 and _is_one_volume(slices, groups):
            continue
        volumes = _joined(slices, groups)
        if _are_stacks(slices, volumes):
            found.append(Division(volumes, keywords))
    if found:
        yield min(found, key=lambda division: len(division.volumes))


def _joined(slices: _Slices, groups: _Groups) -> _Groups:
    """Return the groups, merging one that continues where the previous one ended, as rotations of a scan do."""
    joined = [groups[0]]
    for group in groups[1:]:
        both = (*joined[-1], *group)
        together = slices.steady((both,)) and is_regular(slices.planes.take(both))
        if together and _is_one_volume(slices, (joined[-1], group)):
            joined[-1] = tuple(sorted(both))
        else:
            joined.append(group)
    return tuple(joined)


def _are_stacks(slices: _Slices, groups: _Groups) -> bool:
    """Return whether most groups are regular stacks and the others are too short: passes that were broken off."""
    short = [group for group in groups if len(group) < MIN_SLICES]
    long = tuple(group for group in groups if len(group) >= MIN_SLICES)
    return len(short) < len(long) and all(_once(slices.spots, group) for group in short) and slices.all_regular(long)


def _is_one_volume(slices: _Slices, groups: _Groups) -> bool:
    """Return whether regular stacks are one volume together.

    They are if they form one regular stack and none reaches into another, whatever differs between them: rotations, or
    a kernel changed halfway. A slice missing between two stacks counts as lost, not as the gap between two passes; the
    gate reports it. Where stacks alternate, they are one volume if their slices together cover its range but each stack
    alone would have gaps, since its neighbours are in the others. Two kernels, kVs or phases that alternate are always
    two volumes.
    """
    together = tuple(i for group in groups for i in group)
    planes = slices.planes.take(together)
    ranges = sorted((slices.heights_mm[list(group)].min(), slices.heights_mm[list(group)].max()) for group in groups)
    alternate = any(upper[0] < lower[1] for lower, upper in pairwise(ranges))
    spacing_mm = regular_spacing_mm(planes)
    if not alternate:
        places = places_with_gaps(np.sort(slices.heights_mm[list(together)]))
        return spacing_mm is not None or (places is not None and int(np.diff(places).max()) == 2)
    if spacing_mm is None or not slices.steady((together,)):
        return False
    if np.isnan(planes.thickness_mm).all():
        return True
    thin_mm = float(np.nanmin(planes.thickness_mm))
    apart_mm = min(regular_spacing_mm(slices.planes.take(group)) or 0.0 for group in groups)
    covered = thin_mm >= spacing_mm - allowed_off_grid_mm(spacing_mm)
    return covered and thin_mm < apart_mm - allowed_off_grid_mm(apart_mm)


def _differs(headers: Sequence[Dataset], keyword: str) -> bool:
    first = plain(headers[0].get(keyword))
    return any(plain(header.get(keyword)) != first for header in headers)


def _spots(heights: NDArray[np.float64]) -> _Spots:
    """Number the positions: slices at one position get the same number."""
    order = np.argsort(heights, kind="stable")
    spots = np.zeros(len(heights), np.intp)
    spots[order[1:]] = np.cumsum(np.diff(heights[order]) >= SAME_POSITION_MM)
    return spots


def _values(headers: Sequence[Dataset], keyword: str) -> list[Any]:
    """Return values for sorting: numbers as numbers, everything else as text."""
    found = []
    for header in headers:
        number = numbers_in(header, keyword)
        found.append((0, number[0], "") if len(number) == 1 else (1, 0.0, text_in(header, keyword)))
    return found


def _grouped(values: Sequence[Any]) -> tuple[_Group, ...]:
    groups: dict[Any, list[int]] = {}
    for i, value in enumerate(values):
        groups.setdefault(value, []).append(i)
    return tuple(tuple(groups[value]) for value in sorted(groups))


def _once(spots: _Spots, group: _Group) -> bool:
    return len(set(spots[list(group)].tolist())) == len(group)


def _enough(groups: Sequence[Sequence[int]]) -> bool:
    """Return whether at least one volume is large enough for the gate to accept."""
    return max(map(len, groups)) >= MIN_SLICES


def _moments(headers: Sequence[Dataset], keyword: str) -> list[tuple[str, float]]:
    """Return the moment of each slice; empty where a slice has none."""
    moments = [moment for header in headers if (moment := _moment(header, keyword))]
    return moments if len(moments) == len(headers) else []


def _moment(header: Dataset, keyword: str) -> tuple[str, float] | None:
    """Return a number, or date and time of day (VR DA and TM, PS3.5 6.2) in seconds; None where it is missing."""
    if not keyword.endswith("Time") or keyword == "TriggerTime":
        found = numbers_in(header, keyword)
        return ("", found[0]) if len(found) == 1 and np.isfinite(found[0]) else None
    time = text_in(header, keyword).replace(":", "")
    digits, _, fraction = time.partition(".")
    if not (digits + fraction).isascii() or not digits.isdigit() or len(digits) not in (2, 4, 6):
        return None
    hours, minutes, seconds = (int(digits[at : at + 2] or 0) for at in (0, 2, 4))
    part = float(f"0.{fraction}") if fraction.isdigit() else 0.0
    return text_in(header, keyword.replace("Time", "Date")), 3600 * hours + 60 * minutes + seconds + part
