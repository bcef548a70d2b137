"""The scans of a folder or list, by patient. They are read, selected and built as in inference."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from app.read_input import open_series
from app.research.data.csv_rows import csv_rows, filled
from app.research.data.scan import SPLITS, Scan, short_digest
from app.research.data.window_cache import stamp_of
from app.settings import DEFAULTS, Settings
from operators.build_volume import build_volume
from operators.errors import StartError
from operators.geometry.policy import GeometryPolicy
from operators.images.read_image import is_image
from operators.input.archives import is_archive
from operators.instance import Instance
from operators.job import log_outcome
from operators.read_study import Inventory
from operators.types import Outcome, Series, Volume

logger = logging.getLogger(__name__)

COLUMNS = ("path", "patient", "split", "source")
"""Columns of a list; any further column is a label."""


@dataclass(frozen=True, slots=True)
class _Selected:
    """A series that passed selection.

    Attributes:
        series: the selected series.
        place: the first folder below the data, or else the file; for a list the row's path.
        dicom: its PatientID, or StudyInstanceUID without one; empty for research formats.
        open: reads it.
        stamp: digest of the sizes and modification times of its files, and of how it is read.
        row: row of the list.
    """

    series: Series
    place: str
    dicom: str
    open: Callable[[], Volume] = field(repr=False)
    stamp: str
    row: Mapping[str, str] = field(default_factory=dict)


def find_scans(data: Path, root: Path | None = None, settings: Settings = DEFAULTS) -> tuple[Scan, ...]:
    """Return all CT in a folder or list, selected and read as in encoding; what is left out is logged.

    Archives stay unpacked as long as one of their scans is in use.

    Args:
        data: a folder; or a CSV with the columns `path` (a NIfTI, NRRD or MetaImage file, a ZIP archive or a folder of
            DICOM) and, optionally, `patient`, `split` (one of `SPLITS`), `source`, and labels.
        root: folder that a list's paths are relative to; by default the list's own.
        settings: from app.yaml: which CT series of a study to select, and what to repair instead of rejecting.

    Without a list's `patient`, PatientID distinguishes patients in DICOM. A file in a research format belongs to the
    patient whose DICOM lies below the same first folder of `data` (in a list: the same row's path); without DICOM
    there, that folder or path, or else its name, distinguishes it. A list with the column `patient` is more reliable.

    Raises:
        StartError: `NO_DATA`, `BAD_LIST`, `BAD_SPLIT`: one PatientID of DICOM with and without a name in a list, one
            scan under two names, or DICOM of several patients beside a file in a research format.
    """
    if data.is_dir():
        scans = _scans(_selected_series(data, settings))
    elif data.is_file():
        scans = _listed_once(_scans(list(_listed_series(data, root or data.parent, settings))))
    else:
        raise StartError("NO_DATA", "the data are neither a folder nor a list; give one of them")
    if not scans:
        raise StartError("NO_DATA", "no CT among the data; expected DICOM series, or NIfTI, NRRD or MHA files in HU")
    return tuple(scans)


def _listed_once(listed: Sequence[Scan]) -> list[Scan]:
    """Return each scan once; one listed under two patients could get into two splits unnoticed."""
    found: dict[str, Scan] = {}
    for scan in listed:
        first = found.setdefault(scan.key, scan)
        if (first.patient, first.split) != (scan.patient, scan.split):
            text = f"one scan is listed for patient {first.patient} and for {scan.patient}, or in two splits"
            raise StartError("BAD_SPLIT", f"{text}; list it once")
    return list(found.values())


def _listed_series(listed: Path, root: Path, settings: Settings) -> Iterator[_Selected]:
    for number, row in enumerate(csv_rows(listed, "BAD_LIST"), 2):
        split = row.get("split") or None
        if split not in (None, *SPLITS):
            expected = f"expected {', '.join(SPLITS)}, or nothing for one that is drawn"
            raise StartError("BAD_LIST", f"line {number} has the split {split[:40]!r}; {expected}")  # type: ignore[index]
        path = root / row.get("path", "")
        if not row.get("path") or not path.exists():
            raise StartError("BAD_LIST", f"line {number} has no path that exists below the list's folder or --root")
        found = _selected_series(path, settings) if path.is_dir() or is_image(path) or is_archive(path) else []
        if not found:
            raise StartError("BAD_LIST", f"line {number} names no CT; take it off the list")
        yield from (replace(volume, place=row["path"], row=row) for volume in found)


def _selected_series(source: Path, settings: Settings) -> list[_Selected]:
    """Return every series that passes selection, those in research formats first."""
    archives = ExitStack()
    build = partial(build_volume, policy=settings.geometry)
    selected: list[_Selected] = []
    for job in archives.enter_context(open_series(source, settings, _log_unreadable)):
        if isinstance(job.state, Outcome):
            log_outcome(job.ended("eligible"))
            continue
        series = job.state
        if series.image and (found := job.then("volume", build).ended("eligible")).reason:
            log_outcome(found)  # only its values say whether it is CT
            continue
        dicom = "" if series.image else str(series.first.get("PatientID", "")) or series.study_instance_uid
        place = next(iter(Path(series.folder).parts), ".")
        opened = partial(_open, series, settings.geometry, archives)
        selected.append(_Selected(series, place, dicom, opened, _stamp(series, settings.geometry)))
    return sorted(selected, key=lambda volume: volume.series.folder if volume.series.image else "\U0010ffff")


def _open(series: Series, policy: GeometryPolicy, archives: ExitStack) -> Volume:
    """Build the volume. Holding this function keeps the archives, which are removed with the last of their scans."""
    return build_volume(series, policy)


def _stamp(series: Series, policy: GeometryPolicy) -> str:
    """Return a digest of the repairs and of what the system knows about its files."""
    return short_digest(stamp_of([instance.stamp for instance in series.files]), repr(policy))


def _log_unreadable(inventory: Inventory) -> None:
    for outcome in inventory.unreadable:
        log_outcome(outcome)


def _scans(found: Sequence[_Selected]) -> list[Scan]:
    """Return the scans with their patients: the list's name, or else a digest.

    For DICOM it is a digest of the UIDs of all the PatientID's series, wherever they lie; for an image in a research
    format it is that of the DICOM at its place, of which it is a copy, or without any a digest of the place itself.
    """
    uids, dicom_at = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for selected in found:
        if selected.dicom and not selected.row.get("patient"):
            uids[selected.dicom].add(selected.series.series_instance_uid)
            dicom_at[selected.place].add(selected.dicom)
    digests = {dicom: short_digest(*sorted(uids_of)) for dicom, uids_of in uids.items()}
    scans, names = [], defaultdict[str, set[str]](set)
    for selected in found:
        dicom = selected.dicom
        if not dicom and not selected.row.get("patient") and dicom_at[selected.place]:
            if len(dicom_at[selected.place]) > 1:
                text = (
                    f"a volume lies beside DICOM of {len(dicom_at[selected.place])} patients, so its patient is unclear"
                )
                raise StartError("BAD_SPLIT", f"{text}; give a list with a patient for each path")
            (dicom,) = dicom_at[selected.place]
        patient = selected.row.get("patient") or (digests[dicom] if dicom else short_digest(selected.place))
        scans.append(_scan(selected, dicom or selected.place, patient))
        if dicom:
            names[dicom].add(patient)
    several = {dicom: patients for dicom, patients in names.items() if len(patients) > 1}
    for dicom, patients in several.items():
        if digests.get(dicom) in patients:
            named = " and ".join(sorted(patients - {digests[dicom]}))
            text = f"one PatientID of DICOM is patient {named} and without a name"
            raise StartError("BAD_SPLIT", f"{text}; give it one name in the list")
    if several:  # as when everybody was anonymised under one ID: the list knows better
        text = "%d PatientIDs of DICOM have several names in the list; they are treated as different patients"
        logger.warning(text, len(several))
    return scans


def _scan(found: _Selected, known_as: str, patient: str) -> Scan:
    series, row = found.series, found.row
    split: Any = row.get("split") or None
    return Scan(
        patient=patient,
        split=split,
        source=row.get("source", ""),
        key=short_digest(series.series_instance_uid, *sorted(map(_name, series.instances))),
        open=found.open,
        labels=filled({name: value for name, value in row.items() if name not in COLUMNS}),
        stamp=found.stamp,
        known_as={
            "series_instance_uid": series.series_instance_uid,
            "patient": row.get("patient") or known_as,
            "path": row.get("path") or series.folder,
        },
    )


def _name(instance: Instance) -> str:
    """Return the name of a slice; parts of a series may be frames of one file, which has one UID."""
    return instance.sop_instance_uid + (f" frame {instance.frame.index}" if instance.frame else "")
