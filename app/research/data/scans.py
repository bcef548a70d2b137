"""Scans for training and certifying: the content of a folder or list, by patient, as windows in a cache.

They take the same path as in inference: read, select, build, preprocess.
"""

from __future__ import annotations

import csv
import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from app.read_input import open_series
from app.research.data.window_cache import ScanWindows, stamp_of, stored_windows
from app.settings import DEFAULTS, Settings
from models.spec import Preprocessing
from models.statistics.out_of_distribution import LEAST_PATIENTS
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

Split = Literal["train", "calibration", "reference", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "calibration", "reference", "test")
"""To learn from; to watch the training and choose by; to recognise unlike scans later; to measure with, once."""

LEAST_REFERENCE: Final = LEAST_PATIENTS
"""Patients. With fewer, no conformal p-value can be as small as 0.1, so a smaller split is not drawn."""

MARGIN_VOXELS = (4, 8, 8)
"""(z, y, x) per side: cached windows are larger than the network's, which is cut out at a random place."""

MARGIN_OVERLAP = 0.75

COLUMNS = ("path", "patient", "split", "source")
"""Columns of a list; any further column is a label."""


@dataclass(frozen=True, slots=True)
class Scan:
    """One volume to train on or to measure with.

    Attributes:
        patient: what distinguishes patients without identifying them: the name in a list, else a digest.
        split: from a list; None where it is to be drawn.
        source: from a list: collection and licence, for the model card.
        key: digest of its instances or its file: the name of its windows in the cache.
        open: reads it; raises `SeriesError`.
        labels: column → value, from a list or a file of labels; without empty values.
        stamp: digest of the sizes and modification times of its files.
        known_as: what the first column of a file of labels may call it; may hold an identity, and is never written.
    """

    patient: str
    split: Split | None
    source: str
    key: str
    open: Callable[[], Volume] = field(repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    stamp: str = ""
    known_as: Mapping[str, str] = field(default_factory=dict, repr=False)


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


def split_by_patient(
    scans: Sequence[Scan], *, calibration: float = 0.1, test: float = 0.2, reference: float = 0.1, seed: int = 0
) -> dict[Split, tuple[Scan, ...]]:
    """Split the scans as the list says, or else by a draw; no patient is in two splits.

    Patients are drawn in the order of a digest of their key and the seed: one more patient leaves the others where they
    are, except at a split's edge. A split that the list fills gets no other patients.

    Args:
        scans: scans of all patients.
        calibration: fraction of the patients whose split no list fixes; at least one patient.
        test: likewise.
        reference: likewise, but no patient at all if there would be fewer than `LEAST_REFERENCE`.
        seed: seed of the draw.

    Raises:
        StartError: `BAD_SPLIT`: a patient in two splits, or a split without any; `reference` may be empty.
    """
    fixed: dict[str, Split] = {}
    for scan in scans:
        if scan.split is not None and fixed.setdefault(scan.patient, scan.split) != scan.split:
            both = f"{fixed[scan.patient]} and {scan.split}"
            raise StartError("BAD_SPLIT", f"patient {scan.patient} is in {both}; put each patient into one split")
    free = sorted({scan.patient for scan in scans} - set(fixed), key=lambda patient: _digest(str(seed), patient))
    drawn: dict[str, Split] = {}
    for split, part in (("test", test), ("calibration", calibration), ("reference", reference)):
        if split not in fixed.values():
            count = max(1, round(part * len(free)))
            if split == "reference" and count < LEAST_REFERENCE:
                continue
            patients = [patient for patient in free if patient not in drawn][:count]
            drawn |= dict.fromkeys(patients, split)  # type: ignore[arg-type]
    split_of = {patient: drawn.get(patient, "train") for patient in free} | fixed
    parts = {split: tuple(scan for scan in scans if split_of[scan.patient] == split) for split in SPLITS}
    empty = [split for split in SPLITS if not parts[split] and split != "reference"]
    if empty:
        raise StartError(
            "BAD_SPLIT", f"no patient of {len(split_of)} is in {empty[0]}; at least one in each split is needed"
        )
    return parts


def with_margin(preprocessing: Preprocessing) -> Preprocessing:
    """Return the same preprocessing with larger windows and overlap, from which to cut the network's own."""
    if preprocessing.fit == "resize":
        return preprocessing
    depth, height, width = (
        size + 2 * margin for size, margin in zip(preprocessing.window_voxels, MARGIN_VOXELS, strict=True)
    )
    return replace(preprocessing, window_voxels=(depth, height, width), overlap=MARGIN_OVERLAP)


def cached_windows(scan: Scan, preprocessing: Preprocessing, cache: Path) -> ScanWindows:
    """Return the scan's windows with their positions and real fractions; read and preprocessed only once.

    Raises:
        SeriesError: the scan was rejected.
    """
    return stored_windows(scan.key, scan.stamp, scan.open, preprocessing, cache)


def join_labels(scans: Sequence[Scan], labels: Path) -> tuple[Scan, ...]:
    """Return the scans with labels from a CSV whose first column is series_instance_uid, patient or path.

    Patients have the names in the list, or for a folder their PatientID. A label in the file replaces the list's.

    Raises:
        StartError: `BAD_LABELS`: the first column is another one, a row occurs twice, or no row matches a scan.
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
    """Return the rows of a CSV, cells without spaces around them; a cell without a column name is an error."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StartError(reason, f"cannot read the list ({type(error).__name__}); expected CSV in UTF-8") from error
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise StartError(reason, f"line {number} has more or fewer cells than the first line; quote commas")
    return [{(name or "").strip(): value.strip() for name, value in row.items()} for row in rows]


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
    for number, row in enumerate(_rows(listed, "BAD_LIST"), 2):
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
    return _digest(stamp_of([instance.stamp for instance in series.files]), repr(policy))


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
    digests = {dicom: _digest(*sorted(uids_of)) for dicom, uids_of in uids.items()}
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
        patient = selected.row.get("patient") or (digests[dicom] if dicom else _digest(selected.place))
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
        key=_digest(series.series_instance_uid, *sorted(map(_name, series.instances))),
        open=found.open,
        labels=_filled({name: value for name, value in row.items() if name not in COLUMNS}),
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


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
