"""A series that holds several volumes → parts, from headers alone: first by kind of image, then by phase or time point.

Nothing is dropped: each instance is in exactly one part, and one that makes no stack is left to the gate. Nothing is
made up: slices are told apart only by what the headers say, each part has one slice a position, and where nothing tells
them apart the series stays whole, for the gate to reject.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from operators.dicom.enhanced_ct import with_frames
from operators.geometry.grid import DIRECTION_TOLERANCE, PIXEL_SPACING_TOLERANCE, POSITION_LIMIT_MM, numbers_in
from operators.series.ct_images import why_not
from operators.series.phases import differing, is_stack, tell_apart
from operators.types import Finding, Instance, Series

logger = logging.getLogger(__name__)

PLACE_TAGS: Final = {
    "ImagePositionPatient": 3,
    "ImageOrientationPatient": 6,
    "PixelSpacing": 2,
    "Rows": 1,
    "Columns": 1,
}

MAX_KINDS: Final = 16
"""Orientations, matrices and spacings of a series that is split; one of more is no series of volumes."""

_Group = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Images:
    """Instances that are CT in HU, with their places.

    Attributes:
        instances: in a fixed order.
        places: keyword of `PLACE_TAGS` → float64 (instances, length).
    """

    instances: tuple[Instance, ...]
    places: dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class _Part:
    instances: tuple[Instance, ...]
    told_by: tuple[str, ...]


def split_series(series: Series) -> tuple[Series, ...]:
    """The parts of a series, each with the finding `SPLIT_SERIES`; the series itself where it is one volume, or none.

    The parts are in the order of their kinds (the one with the lowest InstanceNumber first, what is not CT in HU last),
    and in each in the order of what tells the volumes apart.
    """
    if series.image:
        return (series,)
    try:
        series = with_frames(series)
        parts = _parts(series.instances)
    except Exception:  # one broken series must not stop the reading of all: its own stages meet the same, and say so
        logger.debug("series %s was not split", series.series_instance_uid, exc_info=True)
        return (series,)
    if len(parts) < 2:
        return (series,)
    split = []
    for number, part in enumerate(parts, 1):
        detail = (
            f"part {number} of {len(parts)}, told apart by {', '.join(part.told_by)}: {len(part.instances)} of "
            f"{len(series.instances)} images of the series"
        )
        findings = (*series.findings, Finding("SPLIT_SERIES", detail))
        split.append(replace(series, instances=part.instances, part=number, findings=findings))
    return tuple(split)


def _parts(instances: Sequence[Instance]) -> list[_Part]:
    """All instances in parts; none where the series must stay whole."""
    other: dict[str, list[Instance]] = {}
    found: list[Instance] = []
    for instance in instances:
        reason = why_not(instance.header)
        (other.setdefault(reason[0], []) if reason else found).append(instance)
    if (images := _images(found)) is None or not _one_origin(found):
        return []
    kinds, by_place = _kinds(images)
    by_kind = (*(["kind of image"] if other else []), *by_place)
    parts = []
    for kind in sorted(kinds, key=lambda kind: _first_of(images, kind)):
        volumes, told_by = _volumes(images, kind)
        parts += [_Part(tuple(images.instances[i] for i in volume), (*by_kind, *told_by)) for volume in volumes]
    if by_kind and not any(is_stack([one.header for one in part.instances]) for part in parts):
        return []
    return [*parts, *(_Part(tuple(other[code]), by_kind) for code in sorted(other))]


def _images(instances: Sequence[Instance]) -> _Images | None:
    """None where there are none, or one of them does not say where it lies, or lacks its pixels: it is broken."""
    if not instances or any(instance.pixel_offset is None for instance in instances):
        return None
    places = {}
    headers = [instance.header for instance in instances]
    for keyword, length in PLACE_TAGS.items():
        one_for_all = len(differing(headers, keyword)) == 1
        found = [numbers_in(header, keyword) for header in (headers[:1] if one_for_all else headers)]
        if any(len(one) != length for one in found) or not (np.abs(found) <= POSITION_LIMIT_MM).all():
            return None
        places[keyword] = np.broadcast_to(np.array(found, np.float64), (len(headers), length))
    return _Images(tuple(instances), places)


def _one_origin(instances: Sequence[Instance]) -> bool:
    """Slices of several patients or frames of reference are no parts of one series."""
    headers = [instance.header for instance in instances]
    return all(
        len({str(value or "") for value in differing(headers, keyword)} - {""}) <= 1
        for keyword in ("PatientID", "FrameOfReferenceUID")
    )


def _first_of(images: _Images, group: _Group) -> tuple[float, str]:
    return min(
        (_number(images.instances[i].header, "InstanceNumber"), images.instances[i].sop_instance_uid) for i in group
    )


def _number(header: Dataset, keyword: str) -> float:
    """Not a number is last."""
    found = numbers_in(header, keyword)
    return found[0] if len(found) == 1 else np.inf


# By kind: what cannot lie on one grid


def _kinds(images: _Images) -> tuple[list[_Group], list[str]]:
    """Images of one matrix, pixel spacing and orientation, as exact as the gate wants it; and which of these differ."""
    matrix = np.hstack([images.places["Rows"], images.places["Columns"]])
    spacing, direction = images.places["PixelSpacing"], images.places["ImageOrientationPatient"]
    rest = np.arange(len(matrix))
    kinds: list[_Group] = []
    differ: set[str] = set()
    while rest.size and len(kinds) <= MAX_KINDS:
        first = rest[0]
        near = {
            "Rows and Columns": _near(matrix, rest, np.zeros(2)),
            "PixelSpacing": _near(spacing, rest, PIXEL_SPACING_TOLERANCE * spacing[first]),
            "ImageOrientationPatient": _near(direction, rest, np.full(6, DIRECTION_TOLERANCE)),
        }
        same = np.logical_and.reduce(list(near.values()))
        differ |= {keyword for keyword, one in near.items() if not one.all()}
        kinds.append(tuple(rest[same].tolist()))
        rest = rest[~same]
    if rest.size:
        return [tuple(range(len(matrix)))], []
    return kinds, sorted(differ)


def _near(values: NDArray[np.float64], rest: NDArray[np.intp], allowed: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the rest have the values of its first, (instances, length)."""
    return np.asarray((np.abs(values[rest] - values[rest[0]]) <= allowed).all(axis=1))


def _volumes(images: _Images, kind: _Group) -> tuple[list[_Group], tuple[str, ...]]:
    """The volumes of one kind, and what tells them apart; the kind itself where it is one, or nothing does."""
    members = list(kind)
    direction = images.places["ImageOrientationPatient"][members[0]]
    normal = np.cross(direction[:3], direction[3:])
    heights_mm = images.places["ImagePositionPatient"][members] @ normal
    told = tell_apart([images.instances[i].header for i in kind], heights_mm)
    if told is None:
        return [kind], ()
    return [tuple(kind[i] for i in volume) for volume in told.volumes], told.keywords
