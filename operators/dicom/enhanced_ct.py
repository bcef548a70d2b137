"""A multi-frame CT → one instance per frame, so that every later step sees slices, however they were stored.

Enhanced CT Image and Legacy Converted Enhanced CT Image (PS3.3 A.38, A.70).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Final

from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import UID, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from operators.dicom.functional_groups import MAX_HEADER_BYTES, read_groups
from operators.dicom.pixel_data import locate_frames
from operators.dicom.plain_file import open_plain
from operators.errors import SeriesRejected
from operators.instance import Instance
from operators.types import Series

ENHANCED_CT: Final = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)


def sop_class(header: Dataset) -> UID:
    """Return the SOP Class UID of the data set, or else that of the meta information."""
    found = str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")
    return UID(found, validation_mode=config.IGNORE)


def with_frames(series: Series) -> Series:
    """Return the series with one instance per frame of its multi-frame CT; unchanged where it has none.

    Raises:
        SeriesRejected: see `frames`; and `INCOMPLETE_CONCATENATION`.
        SeriesFailed: `FILE_CHANGED`.
        OSError: a file cannot be read.
    """
    if not any(_multi_frame(instance) for instance in series.instances):
        return series
    instances: list[Instance] = []
    concatenations: dict[str, list[Dataset]] = defaultdict(list)
    for instance in series.instances:
        if not _multi_frame(instance):
            instances.append(instance)
            continue
        of_frames, of_file = _frames(instance)
        instances.extend(of_frames)
        if uid := str(of_file.get("ConcatenationUID") or ""):
            concatenations[uid].append(of_file)
    for parts in concatenations.values():
        _check_concatenation(parts)
    return replace(series, instances=tuple(instances))


def frames(instance: Instance) -> tuple[Instance, ...]:
    """Return the frames of a multi-frame CT, in the order of the file.

    Args:
        instance: the file, as `read_instance` returns it.

    Returns:
            One instance per frame: its header holds the values of its functional groups and of the file, under the
            names of a classic CT Image, and `frame` gives the position of its pixels.

    Raises:
        SeriesRejected: `INVALID_FUNCTIONAL_GROUPS`; and see `locate_frames`.
        SeriesFailed: `FILE_CHANGED`.
        OSError: the file cannot be read.
    """
    return _frames(instance)[0]


def _frames(instance: Instance) -> tuple[tuple[Instance, ...], Dataset]:
    header_bytes = instance.pixels.offset if instance.pixels else None
    with open_plain(instance) as file:
        # Read one byte above the limit, so that the limit is noticed.
        before_pixels = file.read(min(header_bytes or MAX_HEADER_BYTES, MAX_HEADER_BYTES) + 1)
    groups = read_groups(instance, before_pixels[:header_bytes])
    places = locate_frames(instance, groups.file, len(groups.headers))
    of_frames = (
        replace(instance, header=header, frame=place) for header, place in zip(groups.headers, places, strict=True)
    )
    return tuple(of_frames), groups.file


def _multi_frame(instance: Instance) -> bool:
    return instance.frame is None and sop_class(instance.header) in ENHANCED_CT


def _check_concatenation(parts: list[Dataset]) -> None:
    """Check that a concatenation has as many files as it declares: a missing end would leave no gap."""
    totals = {part.get("InConcatenationTotalNumber") for part in parts} - {None}
    if totals and totals != {len(parts)}:
        expected = " or ".join(str(total) for total in sorted(totals))
        raise SeriesRejected(
            "INCOMPLETE_CONCATENATION",
            f"found {len(parts)} files of a concatenation; expected {expected}; get the whole series",
        )
