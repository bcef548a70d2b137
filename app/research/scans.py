"""Scans for training: what a folder or a list holds, as windows in a cache, by patient.

DICOM goes the same way as in inference (read, select, build, preprocess); NIfTI joins it as a `Volume`.
"""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from models.bundle import Preprocessing
from operators.build_volume import build_volume
from operators.preprocess import preprocess
from operators.read_study import read_studies
from operators.select_series import select_series
from operators.types import HuSlice, Instance, Series, SeriesError, SeriesFailed, StartError, Volume

if TYPE_CHECKING:
    from nibabel import Nifti1Image

logger = logging.getLogger(__name__)

Split = Literal["train", "held_out"]

MARGIN_VOXELS = (4, 8, 8)
"""(z, y, x) on each side: cached windows are larger than the network's, which is cut out at a random place."""

MARGIN_OVERLAP = 0.75

_SPLITS: dict[str, Split | Literal["unknown"] | None] = {"": None, "train": "train", "held_out": "held_out"}
_CT_LOWEST_HU, _CT_HIGHEST_HU = -400, 100


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
    """All CT that a folder (DICOM and NIfTI) or a list holds; what is not CT is logged and left out.

    Args:
        data: a folder; or a CSV with the columns `path` (a NIfTI file or a folder of DICOM) and, if wanted, `patient`,
            `split` (`train` or `held_out`) and `source`.
        root: the folder that a list's paths are relative to; by default the list's own.

    In a folder, DICOM is told apart by PatientID; NIfTI by the first folder below `data`, or else by the file's name: a
    list says it better.

    Raises:
        StartError: `NO_DATA`, `BAD_LIST`.
    """
    if data.is_dir():
        files = sorted(path for path in data.rglob("*") if _is_nifti(path))
        scans = [scan for path in files for scan in _nifti_scans(path, _nifti_patient(data, path))]
        scans += _dicom_scans(data)
    elif data.is_file():
        scans = list(_listed_scans(data, root or data.parent))
    else:
        raise StartError("NO_DATA", "training data are neither a folder nor a list; give one of them")
    if not scans:
        raise StartError("NO_DATA", "no CT among the training data; expected DICOM series or NIfTI files in HU")
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
        found = _nifti_scans(path, _digest(str(row["path"]))) if path.is_file() else _dicom_scans(path)
        if not found:
            raise StartError("BAD_LIST", f"line {number} names no CT; take it off the list")
        for scan in found:
            patient = row.get("patient") or scan.patient
            yield replace(scan, patient=patient, split=split, source=row.get("source") or "")


def _dicom_scans(folder: Path) -> list[Scan]:
    """Every series that passes selection; its patient is a digest of the UIDs of all that PatientID's series."""
    passed: list[tuple[str, Series]] = []
    for study in read_studies(folder).studies:
        for series in study.series:
            try:
                selected = select_series(series)
            except SeriesError as error:
                logger.info("series %s left out: %s", series.series_instance_uid, error)
                continue
            passed.append((str(series.first.get("PatientID", "")) or study.study_instance_uid, selected))
    uids = {key: sorted(s.series_instance_uid for k, s in passed if k == key) for key, _ in passed}
    return [
        Scan(
            patient=_digest(*uids[key]),
            split=None,
            source="",
            key=_digest(series.series_instance_uid, *sorted(i.sop_instance_uid for i in series.instances)),
            open=lambda series=series: build_volume(series),  # type: ignore[misc]
        )
        for key, series in passed
    ]


def _nifti_scans(path: Path, patient: str) -> list[Scan]:
    """The file as a scan, if its values look like CT: 3D, with air below -400 and something above 100."""
    image = _load_nifti(path)
    voxels = None if image is None else np.asanyarray(image.dataobj)
    if voxels is None or voxels.ndim != 3 or not (voxels.min() < _CT_LOWEST_HU and voxels.max() > _CT_HIGHEST_HU):
        logger.info("a NIfTI file is no CT in HU and is left out")
        return []
    key = hashlib.sha256(path.read_bytes()).hexdigest()
    return [Scan(patient=patient, split=None, source="", key=key, open=lambda: nifti_volume(path, key))]


def nifti_volume(path: Path, key: str) -> Volume:
    """A NIfTI file as a volume, its axes turned to the nearest of LPS.

    NIfTI's world is RAS+ mm (nifti1.h, method 2 and 3): x and y change sign to become DICOM's.

    Raises:
        SeriesFailed: `NIFTI_UNREADABLE`.
    """
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    image = _load_nifti(path)
    if image is None:
        raise SeriesFailed("NIFTI_UNREADABLE", f"NIfTI file {key[:12]} cannot be read; get an undamaged copy")
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt("LPS"))
    image = image.as_reoriented(turn)
    hu = np.rint(np.asanyarray(image.dataobj)).clip(-32768, 32767).astype(np.int16).transpose(2, 1, 0)
    affine = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine)[:, [2, 1, 0, 3]]
    z, y, x = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    uid = f"2.25.{int(key[:32], 16)}"
    series = Series(uid, uid, ".", (Instance(path, Dataset()),))
    depth, height, width = hu.shape
    return Volume(series, (depth, height, width), affine, (z, y, x), (), lambda d: HuSlice(hu[d]))


def _load_nifti(path: Path) -> Nifti1Image | None:
    """None where it is none."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image = nibabel.load(path)
    except (ImageFileError, OSError, EOFError):
        return None
    return image if isinstance(image, nibabel.Nifti1Image) else None


def _nifti_patient(data: Path, path: Path) -> str:
    return _digest(path.relative_to(data).parts[0])


def _is_nifti(path: Path) -> bool:
    return path.name.endswith((".nii", ".nii.gz")) and path.is_file()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
