"""Scans for training: what a folder or a list holds, as windows in a cache, by patient.

They go the same way as in inference: read, select, build, preprocess.
"""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.bundle import Preprocessing
from operators.build_volume import build_volume
from operators.preprocess import preprocess
from operators.read_image import is_image
from operators.read_study import read_studies
from operators.select_series import select_series
from operators.types import Instance, Series, SeriesError, StartError, Volume

logger = logging.getLogger(__name__)

Split = Literal["train", "held_out"]

MARGIN_VOXELS = (4, 8, 8)
"""(z, y, x) on each side: cached windows are larger than the network's, which is cut out at a random place."""

MARGIN_OVERLAP = 0.75

_SPLITS: dict[str, Split | Literal["unknown"] | None] = {"": None, "train": "train", "held_out": "held_out"}


@dataclass(frozen=True, slots=True)
class Scan:
    """One volume to train on or to measure with.

    Attributes:
        patient: what tells patients apart and holds no identity: from a list as it stands there, else a digest.
        split: as a list says; None where it is to be drawn.
        source: as a list says: collection and licence, for the model card.
        key: digest of its instances or its file: the name of its windows in the cache.
        open: reads it; raises `SeriesError`.
    """

    patient: str
    split: Split | None
    source: str
    key: str
    open: Callable[[], Volume]


def find_scans(data: Path, root: Path | None = None) -> tuple[Scan, ...]:
    """All CT that a folder (DICOM and research formats) or a list holds; what is not CT is logged and left out.

    Args:
        data: a folder; or a CSV with the columns `path` (a NIfTI, NRRD or MetaImage file or a folder of DICOM) and, if
            wanted, `patient`, `split` (`train` or `held_out`) and `source`.
        root: the folder that a list's paths are relative to; by default the list's own.

    In a folder, DICOM is told apart by PatientID; files in research formats by the first folder below `data`, or else
    by the file's name: a list says it better.

    Raises:
        StartError: `NO_DATA`, `BAD_LIST`.
    """
    if data.is_dir():
        scans = _scans(data)
    elif data.is_file():
        scans = list(_listed_scans(data, root or data.parent))
    else:
        raise StartError("NO_DATA", "training data are neither a folder nor a list; give one of them")
    if not scans:
        raise StartError(
            "NO_DATA", "no CT among the training data; expected DICOM series, or NIfTI, NRRD or MHA files in HU"
        )
    return tuple(scans)


def split_by_patient(scans: Sequence[Scan], held_out: float, seed: int) -> tuple[tuple[Scan, ...], tuple[Scan, ...]]:
    """(train, held out): as the list says, else patients drawn by the seed; no patient is in both.

    Raises:
        StartError: `BAD_SPLIT`: a patient in both, or a part without any.
    """
    drawn = sorted({scan.patient for scan in scans if scan.split is None})
    chosen = np.random.default_rng(seed).permutation(drawn)[: max(1, round(held_out * len(drawn)))]
    apart = {scan.patient for scan in scans if scan.split == "held_out"} | {str(name) for name in chosen}
    both = apart & {scan.patient for scan in scans if scan.split == "train"}
    if both:
        raise StartError("BAD_SPLIT", f"patients in both splits: {', '.join(sorted(both))}; put each into one")
    parts = (
        tuple(scan for scan in scans if scan.patient not in apart),
        tuple(scan for scan in scans if scan.patient in apart),
    )
    if not all(parts):
        raise StartError("BAD_SPLIT", f"{len(apart)} patients held out, none left; at least two patients are needed")
    return parts


def with_margin(preprocessing: Preprocessing) -> Preprocessing:
    """The same preprocessing with larger windows at a larger overlap, to cut the network's own from."""
    if preprocessing.fit == "resize":
        return preprocessing
    depth, height, width = (
        size + 2 * margin for size, margin in zip(preprocessing.window_voxels, MARGIN_VOXELS, strict=True)
    )
    return replace(preprocessing, window_voxels=(depth, height, width), overlap=MARGIN_OVERLAP)


def cached_windows(scan: Scan, preprocessing: Preprocessing, cache: Path) -> NDArray[np.floating[Any]]:
    """The scan's windows, float16 in [0, 1], (n, d, h, w), memory-mapped; read and preprocessed the first time only.

    Half precision rounds to at most 0.5 HU in a range of 2000.

    Raises:
        SeriesError: the scan did not pass.
    """
    file = cache / f"{scan.key[:24]}-{preprocessing.digest()[:12]}.npy"
    if not file.is_file():
        windows = preprocess(scan.open(), preprocessing)
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".tmp.npy")
        np.save(unfinished, windows.voxels[:, 0].astype(np.float16))
        unfinished.rename(file)
    mapped: NDArray[np.floating[Any]] = np.load(file, mmap_mode="r", allow_pickle=False)
    return mapped


def _listed_scans(listed: Path, root: Path) -> Iterator[Scan]:
    with listed.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    for number, row in enumerate(rows, 2):
        path, split = root / (row.get("path") or ""), _SPLITS.get(row.get("split") or "", "unknown")
        if not row.get("path") or not path.exists() or split == "unknown":
            raise StartError(
                "BAD_LIST", f"line {number} has no path that exists, or a split other than train, held_out"
            )
        found = [] if path.is_file() and not is_image(path) else _scans(path)
        if not found:
            raise StartError("BAD_LIST", f"line {number} names no CT; take it off the list")
        for scan in found:
            patient = row.get("patient") or (_digest(str(row["path"])) if path.is_file() else scan.patient)
            yield replace(scan, patient=patient, split=split, source=row.get("source") or "")


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
    return [
        Scan(
            patient=_digest(key) if series.image else _digest(*uids[key]),
            split=None,
            source="",
            key=_digest(series.series_instance_uid, *sorted(map(_name, series.instances))),
            open=lambda series=series: build_volume(series),  # type: ignore[misc]
        )
        for key, series in passed
    ]


def _name(instance: Instance) -> str:
    """Of a slice; parts of a series may be frames of one file, which has one UID."""
    return instance.sop_instance_uid + (f" frame {instance.frame.index}" if instance.frame else "")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
