"""Scans for training and certifying: what a folder or a list holds, by patient, as windows in a cache.

They go the same way as in inference: read, select, build, preprocess.
"""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from app.research.window_cache import ScanWindows, stamp_of, stored_windows
from models.bundle import Preprocessing
from operators.build_volume import build_volume
from operators.read_image import is_image
from operators.read_study import read_studies
from operators.select_series import select_series
from operators.types import Instance, Series, SeriesError, StartError, Volume

logger = logging.getLogger(__name__)

Split = Literal["train", "calibration", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "calibration", "test")
"""To learn from; to watch the training with and to tell later what is unlike it; to measure with, once, at the end."""

MARGIN_VOXELS = (4, 8, 8)
"""(z, y, x) on each side: cached windows are larger than the network's, which is cut out at a random place."""

MARGIN_OVERLAP = 0.75

COLUMNS = ("path", "patient", "split", "source")
"""Of a list; any further column is a label."""


@dataclass(frozen=True, slots=True)
class Scan:
    """One volume to train on or to measure with.

    Attributes:
        patient: what tells patients apart and holds no identity: from a list as it stands there, else a digest.
        split: as a list says; None where it is to be drawn.
        source: as a list says: collection and licence, for the model card.
        key: digest of its instances or its file: the name of its windows in the cache.
        open: reads it; raises `SeriesError`.
        labels: column → value as it stands in a list or a file of labels; without those left empty.
        stamp: digest of the sizes and times of change of its files.
        known_as: what a file of labels may call it, by its first column; may hold an identity, and is never written.
    """

    patient: str
    split: Split | None
    source: str
    key: str
    open: Callable[[], Volume]
    labels: Mapping[str, str] = field(default_factory=dict)
    stamp: str = ""
    known_as: Mapping[str, str] = field(default_factory=dict, repr=False)


def find_scans(data: Path, root: Path | None = None) -> tuple[Scan, ...]:
    """All CT that a folder (DICOM and research formats) or a list holds; what is not CT is logged and left out.

    Args:
        data: a folder; or a CSV with the columns `path` (a NIfTI, NRRD or MetaImage file or a folder of DICOM) and, if
            wanted, `patient`, `split` (`train`, `calibration` or `test`), `source`, and labels.
        root: the folder that a list's paths are relative to; by default the list's own.

    In a folder, DICOM is told apart by PatientID; files in research formats by the first folder below `data`, or else
    by the file's name: a list says it better.

    Raises:
        StartError: `NO_DATA`, `BAD_LIST`.
    """
    if data.is_dir():
        scans = _scans(data)
    elif data.is_file():
        scans = _listed_once(_listed_scans(data, root or data.parent))
    else:
        raise StartError("NO_DATA", "the data are neither a folder nor a list; give one of them")
    if not scans:
        raise StartError("NO_DATA", "no CT among the data; expected DICOM series, or NIfTI, NRRD or MHA files in HU")
    return tuple(scans)


def split_by_patient(
    scans: Sequence[Scan], *, calibration: float = 0.1, test: float = 0.2, seed: int = 0
) -> dict[Split, tuple[Scan, ...]]:
    """Train, calibration and test: as the list says, else drawn; no patient is in two of them.

    Patients are drawn in the order of a digest of their key and the seed: one more of them leaves the others where they
    are, but for those at a split's edge. A split that the list fills gets no other patients.

    Args:
        scans: of all patients.
        calibration: part of the patients whose split no list fixes, at least one patient.
        test: likewise.
        seed: of the draw.

    Raises:
        StartError: `BAD_SPLIT`: a patient in two splits, or a split without any.
    """
    fixed: dict[str, Split] = {}
    for scan in scans:
        if scan.split is not None and fixed.setdefault(scan.patient, scan.split) != scan.split:
            both = f"{fixed[scan.patient]} and {scan.split}"
            raise StartError("BAD_SPLIT", f"patient {scan.patient} is in {both}; put each patient into one split")
    free = sorted({scan.patient for scan in scans} - set(fixed), key=lambda patient: _digest(str(seed), patient))
    drawn: dict[str, Split] = {}
    for split, part in (("test", test), ("calibration", calibration)):
        if split not in fixed.values():
            count = max(1, round(part * len(free)))
            taken = [patient for patient in free if patient not in drawn][:count]
            drawn |= dict.fromkeys(taken, split)  # type: ignore[arg-type]
    of = {patient: drawn.get(patient, "train") for patient in free} | fixed
    parts = {split: tuple(scan for scan in scans if of[scan.patient] == split) for split in SPLITS}
    empty = [split for split in SPLITS if not parts[split]]
    if empty:
        raise StartError("BAD_SPLIT", f"no patient of {len(of)} is in {empty[0]}; at least one in each split is needed")
    return parts


def with_margin(preprocessing: Preprocessing) -> Preprocessing:
    """The same preprocessing with larger windows at a larger overlap, to cut the network's own from."""
    if preprocessing.fit == "resize":
        return preprocessing
    depth, height, width = (
        size + 2 * margin for size, margin in zip(preprocessing.window_voxels, MARGIN_VOXELS, strict=True)
    )
    return replace(preprocessing, window_voxels=(depth, height, width), overlap=MARGIN_OVERLAP)


def cached_windows(scan: Scan, preprocessing: Preprocessing, cache: Path) -> ScanWindows:
    """The scan's windows, each one's place in it and how much of it is real; read and preprocessed just once.

    Raises:
        SeriesError: the scan did not pass.
    """
    return stored_windows(scan.key, scan.stamp, scan.open, preprocessing, cache)


def join_labels(scans: Sequence[Scan], labels: Path) -> tuple[Scan, ...]:
    """The scans with the labels of a CSV whose first column says what of: series_instance_uid, patient or path.

    Patients are called as in the list; of a folder, by PatientID. A label of the file replaces the list's of that name.

    Raises:
        StartError: `BAD_LABELS`: another first column, a row twice, or no row for any scan.
    """
    rows = _rows(labels, "BAD_LABELS")
    by = next(iter(rows[0]), "") if rows else ""
    if by not in ("series_instance_uid", "patient", "path"):
        expected = "expected series_instance_uid, patient or path, and label columns after it"
        raise StartError("BAD_LABELS", f"the first column of the labels is {by[:40]!r}; {expected}")
    given: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, 2):
        name = row.pop(by)
        if given.setdefault(name, row) is not row:
            raise StartError("BAD_LABELS", f"line {number} of the labels has a {by} for the second time; keep one")
    known = {scan.known_as.get(by, "") for scan in scans} & set(given)
    if not known:
        raise StartError("BAD_LABELS", f"none of {len(given)} labelled {by} is among {len(scans)} scans; check them")
    if len(known) < len(given):
        logger.warning("%d of %d labelled %s are not among the scans", len(given) - len(known), len(given), by)
    return tuple(
        replace(scan, labels=dict(scan.labels) | _filled(given.get(scan.known_as.get(by, ""), {}))) for scan in scans
    )


def _filled(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if name and value}


def _rows(file: Path, reason: str) -> list[dict[str, str]]:
    """Of a CSV, cells without spaces around them; a cell that the header does not name is an error."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StartError(reason, f"cannot read the list ({type(error).__name__}); expected CSV in UTF-8") from error
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise StartError(reason, f"line {number} has more or fewer cells than the first line; quote commas")
    return [{(name or "").strip(): value.strip() for name, value in row.items()} for row in rows]


def _listed_once(listed: Iterator[Scan]) -> list[Scan]:
    """Each scan once; the same one under two patients would be in two splits, and nobody would see it."""
    found: dict[str, Scan] = {}
    for scan in listed:
        first = found.setdefault(scan.key, scan)
        if (first.patient, first.split) != (scan.patient, scan.split):
            text = f"one scan is listed for patient {first.patient} and for {scan.patient}, or in two splits"
            raise StartError("BAD_SPLIT", f"{text}; list it once")
    return list(found.values())


def _listed_scans(listed: Path, root: Path) -> Iterator[Scan]:
    for number, row in enumerate(_rows(listed, "BAD_LIST"), 2):
        split = row.get("split") or None
        if split not in (None, *SPLITS):
            expected = f"expected {', '.join(SPLITS)}, or nothing for one that is drawn"
            raise StartError("BAD_LIST", f"line {number} has the split {split[:40]!r}; {expected}")  # type: ignore[index]
        path = root / row.get("path", "")
        if not row.get("path") or not path.exists():
            raise StartError("BAD_LIST", f"line {number} has no path that exists below the list's folder or --root")
        found = [] if path.is_file() and not is_image(path) else _scans(path)
        if not found:
            raise StartError("BAD_LIST", f"line {number} names no CT; take it off the list")
        labels = _filled({name: value for name, value in row.items() if name not in COLUMNS})
        for scan in found:
            patient = row.get("patient") or (_digest(row["path"]) if path.is_file() else scan.patient)
            known_as = {**scan.known_as, "path": row["path"], "patient": patient}
            yield replace(
                scan,
                patient=patient,
                split=split,
                source=row.get("source", ""),
                labels=labels,
                known_as=known_as,
            )


def _scans(source: Path) -> list[Scan]:
    """Every series that passes selection, those in research formats first.

    A patient of DICOM is a digest of the UIDs of all that PatientID's series.
    """
    passed: list[tuple[str, Series]] = []
    for study in read_studies(source).studies:
        for series in study.series:
            try:
                selected = select_series(series)
                if series.image:
                    build_volume(series)  # only its values say whether it is CT
            except SeriesError as error:
                logger.info("series %s left out: %s", series.series_instance_uid, error)
                continue
            patient = str(series.first.get("PatientID", "")) or study.study_instance_uid
            passed.append((Path(series.folder).parts[0] if series.image else patient, selected))
    passed.sort(key=lambda one: one[1].folder if one[1].image else "\U0010ffff")
    uids = {key: sorted(s.series_instance_uid for k, s in passed if k == key) for key, _ in passed}
    return [_scan(key, series, uids[key]) for key, series in passed]


def _scan(patient: str, series: Series, uids: Sequence[str]) -> Scan:
    return Scan(
        patient=_digest(patient) if series.image else _digest(*uids),
        split=None,
        source="",
        key=_digest(series.series_instance_uid, *sorted(map(_name, series.instances))),
        open=lambda: build_volume(series),
        stamp=stamp_of([instance.stamp for instance in series.files]),
        known_as={"series_instance_uid": series.series_instance_uid, "patient": patient, "path": series.folder},
    )


def _name(instance: Instance) -> str:
    """Of a slice; parts of a series may be frames of one file, which has one UID."""
    return instance.sop_instance_uid + (f" frame {instance.frame.index}" if instance.frame else "")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
