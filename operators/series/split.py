"""A series that holds several volumes → parts, from headers alone: first by kind of image, then by phase or pass.

Each instance is in exactly one part; one that forms no stack is left to the gate. Slices are divided only by header
values, and each part has one slice per position. Where nothing divides them, the series stays whole, and the gate
rejects it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from operators.dicom.enhanced_ct import with_frames
from operators.dicom.values import numbers_in
from operators.errors import SeriesRejected
from operators.geometry.grid import is_regular
from operators.geometry.origin import has_one_origin
from operators.geometry.planes import DIRECTION_TOLERANCE, PIXEL_SPACING_TOLERANCE, Planes, read_planes
from operators.instance import Instance
from operators.series.ct_images import reason_against
from operators.series.volumes import divide
from operators.types import Finding, Series

MAX_KINDS: Final = 16
"""Limit for orientations, matrices and spacings of a series to split; one with more is not a series of volumes."""

_Group = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    instances: tuple[Instance, ...]
    keywords: tuple[str, ...]


def split_series(series: Series) -> tuple[Series, ...]:
    """Split a series into parts, each with the finding `SPLIT_SERIES`; a series of one volume or none stays as it is.

    A multi-frame CT becomes one instance per frame. The parts are ordered by kind (lowest InstanceNumber first, images
    that are not CT in HU last), and within a kind by the values that divide the volumes.

    Raises:
        SeriesRejected: the frames of a multi-frame CT cannot be separated, see `with_frames`.
        SeriesFailed: `FILE_CHANGED`.
        OSError: a multi-frame file cannot be read.
    """
    if series.image:
        return (series,)
    series = with_frames(series)
    parts = _parts(series.instances)
    if len(parts) < 2:
        return (series,)
    split = []
    for number, part in enumerate(parts, 1):
        detail = (
            f"part {number} of {len(parts)}, distinguished by {', '.join(part.keywords)}: {len(part.instances)} of "
            f"{len(series.instances)} images of the series"
        )
        findings = (*series.findings, Finding("SPLIT_SERIES", detail))
        split.append(replace(series, instances=part.instances, part=number, findings=findings))
    return tuple(split)


def _parts(instances: Sequence[Instance]) -> list[_Part]:
    """Return all instances in parts; an empty list where the series must stay whole."""
    other: dict[str, list[Instance]] = {}
    images: list[Instance] = []
    for instance in instances:
        reason = reason_against(instance.header)
        (other.setdefault(reason[0], []) if reason else images).append(instance)
    if (planes := _planes(images)) is None or not has_one_origin([image.header for image in images]):
        return []
    kinds, by_place = _kinds(planes)
    by_kind = (*(["kind of image"] if other else []), *by_place)
    parts = []
    any_regular = False
    for kind in sorted(kinds, key=lambda kind: _first_of(images, kind)):
        division = divide([images[i].header for i in kind], planes.take(kind))
        for volume in division.volumes:
            members = [kind[i] for i in volume]
            any_regular |= is_regular(planes.take(members))
            parts.append(_Part(tuple(images[i] for i in members), (*by_kind, *division.keywords)))
    if by_kind and not any_regular:
        return []
    return [*parts, *(_Part(tuple(other[code]), by_kind) for code in sorted(other))]


def _planes(images: Sequence[Instance]) -> Planes | None:
    """Return where the images lie; None where there are no images, or one lacks its plane or its pixels."""
    if not images or any(image.pixels is None for image in images):
        return None
    try:
        return read_planes([image.header for image in images])
    except SeriesRejected:
        return None  # the series stays whole, and the gate, which also reads the planes, gives the reason


def _first_of(images: Sequence[Instance], group: _Group) -> tuple[float, str]:
    return min((_number(images[i].header, "InstanceNumber"), images[i].sop_instance_uid) for i in group)


def _number(header: Dataset, keyword: str) -> float:
    """Return a number for sorting; a value that is not a number comes last."""
    found = numbers_in(header, keyword)
    return found[0] if len(found) == 1 else np.inf


# By kind: images that cannot lie on one grid


def _kinds(planes: Planes) -> tuple[list[_Group], list[str]]:
    """Return groups of equal matrix, pixel spacing and orientation, to the gate's tolerance, and what differs."""
    matrix, spacing, direction = planes.matrix, planes.pixel_spacing_mm, planes.cosines
    rest = np.arange(len(planes))
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
        differ |= {keyword for keyword, same in near.items() if not same.all()}
        kinds.append(tuple(rest[same].tolist()))
        rest = rest[~same]
    if rest.size:
        return [tuple(range(len(matrix)))], []
    return kinds, sorted(differ)


def _near(values: NDArray[np.float64], rest: NDArray[np.intp], allowed: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which of the remaining instances have the values of the first; values are (instances, length)."""
    return np.asarray((np.abs(values[rest] - values[rest[0]]) <= allowed).all(axis=1))
