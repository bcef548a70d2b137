"""Folder → studies and series: every header in the folder is read once, and every file is accounted for.

A DICOM file that cannot be read becomes an entry of the ledger with a reason; it is never lost and never stops its
neighbours. Each NIfTI, NRRD or MetaImage file is a series of its own. Other files are ignored. Paths are not logged,
for they may hold a name.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.uid import DeflatedExplicitVRLittleEndian

from operators.dicom.header_values import HeaderValues
from operators.dicom.read_header import read_instance
from operators.dicom.values import is_valid_uid
from operators.errors import SeriesError, SeriesRejected
from operators.images.read_image import find_image, image_series
from operators.input.archives import Archive
from operators.input.files import InputRoots, input_files, not_opened
from operators.instance import Instance
from operators.job import Job, failure
from operators.series.split import split_series
from operators.types import Finding, Outcome, Series, Study
from operators.uids import file_sha256, uid_from_digest

logger = logging.getLogger(__name__)

_Grouped = dict[tuple[str, str, str], list[Instance]]


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the input holds.

    Attributes:
        studies: ordered by UID, as are the series in each; a series that holds several volumes is in parts.
        unreadable: one outcome for each DICOM file that cannot be read or opened, and for each series that could not be
            split.
        files: number of files found.
        not_dicom: how many of them are not images (or are a DICOMDIR) and were ignored.
    """

    studies: tuple[Study, ...]
    unreadable: tuple[Outcome, ...]
    files: int = 0
    not_dicom: int = 0

    @property
    def series(self) -> tuple[Series, ...]:
        """Every series of every study, in their order."""
        return tuple(series for study in self.studies for series in study.series)


def read_studies(
    folder: Path, on_file: Callable[[int, int], None] | None = None, archives: Sequence[Archive] = ()
) -> Inventory:
    """Read the headers of all images in a folder and the folders below it.

    Symbolic links below the folder are not followed: their targets inside the folder are found anyway, and targets
    outside it are not part of the input.

    Args:
        folder: the input; or one file in a research format, or an archive.
        on_file: called after each file with (files done, files in all).
        archives: those of the input, see `operators.input.archives`; without them ZIP archives are ignored.

    Raises:
        StartError: `INPUT_NOT_A_FOLDER`.
    """
    return read_files(*input_files(folder.resolve(), archives), on_file)


def read_files(
    roots: InputRoots,
    paths: Sequence[Path],
    met_before: Sequence[Outcome] = (),
    on_file: Callable[[int, int], None] | None = None,
    shared: Mapping[str, int] | None = None,
) -> Inventory:
    """Read the headers of these files.

    Args:
        roots: the folders that hold them.
        paths: the files, in a fixed order.
        met_before: outcomes of what could not be read beside them; the inventory's `unreadable` begins with these.
        on_file: called after each file with (files done, files in all).
        shared: SeriesInstanceUID → number of studies of the whole input in which it occurs, where these files are only
            a part of it.
    """
    unreadable = list(met_before)
    grouped: _Grouped = defaultdict(list)
    images: list[Series] = []
    not_dicom, values = 0, HeaderValues()
    for done, path in enumerate(paths, 1):
        found = read_file(path, roots, values)
        if isinstance(found, Outcome):
            unreadable.append(found)
        elif found is None:
            not_dicom += 1
        elif found.image:
            images.append(image_series(found, roots.folder(path)))
        else:
            grouped[_group(found)].append(found)
        if on_file:
            on_file(done, len(paths))
    logger.debug("%d files: %d not DICOM, %d unreadable", len(paths), not_dicom, len(unreadable))
    dicom = [_series(group, roots, unreadable) for group in grouped.items()]
    parts: list[Series] = []
    for series in _unique([*dicom, *images], shared or {}):
        try:
            parts += split_series(series)
        except (SeriesError, OSError):
            parts.append(series)  # its frames cannot be separated: `select` finds the same, and ends it with the reason
        except Exception as error:  # one broken series must not stop the others
            logger.debug("series %s was not split", series.series_instance_uid, exc_info=True)
            unreadable.append(failure(Job(series, series), error))
    return Inventory(_studies(parts), tuple(unreadable), len(paths), not_dicom)


def pixels_digest(instance: Instance) -> str:
    """Return the SHA-256, in hex, of a file from its pixels on: the same whatever was changed in the header.

    The whole file is digested where it has no pixels, or where they are deflated together with the header.
    """
    deflated = instance.header.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    return file_sha256(instance.path, 0 if deflated or instance.pixels is None else instance.pixels.offset)


def read_file(path: Path, roots: InputRoots, values: HeaderValues) -> Instance | Outcome | None:
    """Read a file's header.

    Returns:
        The instance, or why it cannot be read; None where the file is not an image.
    """
    try:
        try:
            return read_instance(path, values) or find_image(path, roots.root_of(path))
        except SeriesRejected as error:
            uid = uid_from_digest(file_sha256(path))
            folder, name = roots.folder(path.parent), roots.folder(path)
            return Outcome(uid, None, folder, error.status, error.reason, error.message, file=name)
    except OSError as error:
        return not_opened(path, path.parent, roots, error)


def stated_uids(instance: Instance) -> tuple[str, str]:
    """Return StudyInstanceUID and SeriesInstanceUID as they stand in the file; empty where missing."""
    return _uid(instance, "StudyInstanceUID"), _uid(instance, "SeriesInstanceUID")


def _group(instance: Instance) -> tuple[str, str, str]:
    """Return (study, series, folder) as in the file; the folder counts only where the series UID is empty."""
    study, series = stated_uids(instance)
    return study, series, "" if series else str(instance.path.parent)


def _series(
    group: tuple[tuple[str, str, str], list[Instance]], roots: InputRoots, unreadable: Iterable[Outcome]
) -> Series:
    (study_uid, series_uid, _), instances = group
    folder = roots.folder(min(instance.path for instance in instances).parent)
    instances = sorted(instances, key=lambda instance: (instance.sop_instance_uid, instance.path))
    kept = tuple(map(_identified, _without_copies(instances)))
    series = Series(series_uid, study_uid, folder, kept)
    folders = {roots.folder(instance.path.parent) for instance in instances}
    lost = sum(outcome.folder in folders for outcome in unreadable)
    if lost:
        detail = f"{lost} DICOM files in the same folder cannot be read; if they belong here, slices are lost"
        series = replace(series, findings=(Finding("UNREADABLE_NEIGHBOUR", detail),))
    if len(kept) < len(instances):
        detail = f"{len(instances) - len(kept)} files are byte for byte copies of others and were left out"
        series = replace(series, findings=(*series.findings, Finding("IDENTICAL_COPIES", detail)))
    if not is_valid_uid(series_uid):
        series = _derived(series, "SeriesInstanceUID", "invalid" if series_uid else "missing")
    if not is_valid_uid(study_uid):
        series = _derived(series, "StudyInstanceUID", "invalid" if study_uid else "missing")
    return series


def _identified(instance: Instance) -> Instance:
    """Return the instance with the digest of its pixels, where its UID does not identify it."""
    if is_valid_uid(instance.sop_instance_uid):
        return instance
    return replace(instance, pixels_digest=pixels_digest(instance))


def _without_copies(instances: list[Instance]) -> tuple[Instance, ...]:
    """Keep one of each set of byte-for-byte copies: folders are copied, and a copy is not a second slice.

    Files that share a SOP Instance UID but differ all stay, for the gate to reject.
    """
    counts = Counter(instance.sop_instance_uid for instance in instances)
    kept: list[Instance] = []
    contents: set[tuple[str, str]] = set()
    for instance in instances:
        uid = instance.sop_instance_uid
        if uid and counts[uid] > 1:
            content = uid, _digest_or_path(instance.path)
            if content in contents:
                continue
            contents.add(content)
        kept.append(instance)
    return tuple(kept)


def _digest_or_path(path: Path) -> str:
    """Return a file's digest; for a file that no longer exists its path, which is unique; the gate will find out."""
    try:
        return file_sha256(path)
    except OSError:
        return os.fspath(path)


def _derived(series: Series, keyword: str, was: str) -> Series:
    """Replace a UID that is missing or invalid by one derived from the pixels, so that the same scan gets the same UID.

    A study UID that is present but invalid is derived from its text, so that the series of a study stay together.
    """
    if keyword == "StudyInstanceUID" and series.study_instance_uid:
        digest = _sha256(series.study_instance_uid)
    else:
        digest = _sha256(
            keyword, *sorted(instance.pixels_digest or pixels_digest(instance) for instance in series.instances)
        )
    original = series.study_instance_uid if keyword == "StudyInstanceUID" else series.series_instance_uid
    uid = uid_from_digest(digest)
    finding = Finding("UID_DERIVED", f"{keyword} is {was}; {uid} takes its place")
    kept = replace(
        series, derived_uids=(*series.derived_uids, (keyword, original)), findings=(*series.findings, finding)
    )
    if keyword == "StudyInstanceUID":
        return replace(kept, study_instance_uid=uid)
    return replace(kept, series_instance_uid=uid)


def _unique(found: Iterable[Series], shared: Mapping[str, int]) -> list[Series]:
    """Return the series with unique UIDs, for results are filed by UID.

    A UID that occurs in several studies is derived anew in each. Of copies without a UID that have the same pixels, the
    second gets a UID of its own.
    """
    every = sorted(found, key=lambda series: (series.study_instance_uid, series.series_instance_uid, series.folder))
    counts = Counter(series.series_instance_uid for series in every)
    counts.update({uid: total - counts[uid] for uid, total in shared.items() if total > counts[uid] > 0})
    unique: list[Series] = []
    taken: set[str] = set()
    for series in every:
        if counts[series.series_instance_uid] > 1 and not _is_derived(series):
            series = _derived(series, "SeriesInstanceUID", f"the same in {counts[series.series_instance_uid]} studies")
        while series.series_instance_uid in taken:
            other = uid_from_digest(_sha256(series.study_instance_uid, series.series_instance_uid))
            series = replace(series, series_instance_uid=other)
        taken.add(series.series_instance_uid)
        unique.append(series)
    return unique


def _studies(found: list[Series]) -> tuple[Study, ...]:
    studies: dict[str, list[Series]] = defaultdict(list)
    for series in sorted(found, key=lambda series: series.series_instance_uid):
        studies[series.study_instance_uid].append(series)
    return tuple(Study(uid, tuple(studies[uid])) for uid in sorted(studies))


def _uid(instance: Instance, keyword: str) -> str:
    return str(instance.header.get(keyword) or "")


def _is_derived(series: Series) -> bool:
    return any(keyword == "SeriesInstanceUID" for keyword, _ in series.derived_uids)


def _sha256(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
