"""An earlier SR that a new one replaces (Predecessor Documents Sequence, PS3.3 C.17.2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from operators.sr.read import open_document, read_sr


@dataclass(frozen=True, slots=True)
class Predecessor:
    """What the new SR states about the earlier one.

    Attributes:
        described: SeriesInstanceUID and part of the CT that the earlier SR describes.
        instance_number: the new SR's number must be higher, for viewers show the last SR of a series.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    described: tuple[str, int | None]
    instance_number: int


def read_predecessor(source: Path | str | Dataset) -> Predecessor:
    """Return what a new SR states about an earlier one, which ctvae wrote.

    Raises:
        CtvaeError: `NOT_DICOM`, `NOT_OUR_SR` or `BROKEN_SR`.
        OSError: the file cannot be opened.
    """
    document = source if isinstance(source, Dataset) else open_document(Path(source))
    features = read_sr(document)
    return Predecessor(
        sop_class_uid=str(document.SOPClassUID),
        sop_instance_uid=features.sop_instance_uid,
        study_instance_uid=features.study_instance_uid,
        series_instance_uid=str(document.SeriesInstanceUID),
        described=(features.series_instance_uid, features.part),
        instance_number=int(document.get("InstanceNumber") or 0),
    )
