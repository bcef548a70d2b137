"""Whether slices belong to one patient and one frame of reference: otherwise their positions cannot be compared."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset

from operators.dicom.character_sets import Undecodable
from operators.dicom.values import is_valid_uid, text_in
from operators.errors import SeriesRejected
from operators.geometry.policy import MIN_SLICES
from operators.types import Finding


def has_one_origin(headers: Sequence[Dataset]) -> bool:
    """Return whether slices pass `check_origin`."""
    try:
        check_origin(headers)
    except SeriesRejected:
        return False
    return True


def check_origin(headers: Sequence[Dataset]) -> list[Finding]:
    """Check that slices belong to one patient and one frame of reference.

    Where each slice has its own frame of reference (the LIDC collection is anonymised so), it carries no information:
    whether the slices belong together is then judged by their positions, which must form a regular stack.

    Raises:
        SeriesRejected: `MIXED_PATIENT` or `MIXED_FRAME_OF_REFERENCE`.
    """
    if (patients := len(_values(headers, "PatientID"))) > 1:
        raise SeriesRejected(
            "MIXED_PATIENT",
            f"found {patients} PatientIDs under one SeriesInstanceUID; expected one; separate the scans",
        )
    frames = len(_values(headers, "FrameOfReferenceUID"))
    if frames <= 1:
        return []
    if frames < max(MIN_SLICES, len(headers)):
        raise SeriesRejected(
            "MIXED_FRAME_OF_REFERENCE",
            f"found {frames} frames of reference; expected one: positions in two cannot be compared; separate them",
        )
    detail = f"each of {frames} slices has a FrameOfReferenceUID of its own; their positions make one regular stack"
    return [Finding("FRAME_OF_REFERENCE_PER_SLICE", detail)]


def frame_of_reference(headers: Sequence[Dataset]) -> str | None:
    """Return the FrameOfReferenceUID that all slices share; None where it is missing, invalid or differs."""
    found = _values(headers, "FrameOfReferenceUID")
    uid = found.pop() if len(found) == 1 else ""
    return uid if is_valid_uid(uid) else None


def _values(headers: Sequence[Dataset], keyword: str) -> set[str]:
    """Return the non-empty values in the headers; a value that cannot be decoded is replaced by its digest."""
    found = set()
    for header in headers:
        value = header.get(keyword)
        found.add(f"undecodable {value.digest}" if isinstance(value, Undecodable) else text_in(header, keyword))
    return found - {""}
