"""The input → all its files, including those in archives, in a fixed order and with their paths for `outcome.json`."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from operators.errors import SeriesError, StartError
from operators.images.read_image import is_image
from operators.input.archives import Archive, is_archive
from operators.system_error import system_reason
from operators.types import Outcome
from operators.uids import file_sha256, uid_from_digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InputRoots:
    """Where the files are, and how `outcome.json` names their place.

    Attributes:
        root: the input folder.
        archives: archives that were unpacked, each into its own folder.
    """

    root: Path
    archives: Sequence[Archive] = ()

    def root_of(self, path: Path) -> Path:
        """Return the folder that references in this file must not leave."""
        return next(
            (archive.folder for archive in self.archives if archive.folder and path.is_relative_to(archive.folder)),
            self.root,
        )

    def relative(self, path: Path) -> Path:
        """Return a path relative to the input; an archive counts as a folder."""
        root = self.root_of(path)
        name = next((archive.name for archive in self.archives if archive.folder == root), "")
        return Path(name) / path.relative_to(root)

    def folder(self, path: Path) -> str:
        """Return the file's folder relative to the input as writable text; bytes that are not UTF-8 are replaced."""
        return os.fsencode(self.relative(path).as_posix()).decode(errors="replace")


def input_files(source: Path, archives: Sequence[Archive]) -> tuple[InputRoots, list[Path], list[Outcome]]:
    """Return all files of the input in a fixed order, those in archives last, and outcomes of what cannot be opened."""
    if source.is_dir():
        roots = InputRoots(source, archives)
        paths, unreadable = _files(source, roots)
        packed = {archive.path.resolve() for archive in archives}
        paths = [path for path in paths if path not in packed]
    elif source.is_file() and (is_image(source) or is_archive(source)):
        roots, unreadable = InputRoots(source.parent, archives), []
        paths = [] if is_archive(source) else [source]
    else:
        raise StartError("INPUT_NOT_A_FOLDER", "the input is not a folder; give a folder that holds DICOM files")
    for archive in archives:
        if archive.refused:
            unreadable.append(_refused(archive, archive.refused))
        elif archive.folder:
            more, closed = _files(archive.folder, roots)
            paths, unreadable = [*paths, *more], [*unreadable, *closed]
    return roots, paths, unreadable


def _refused(archive: Archive, error: SeriesError) -> Outcome:
    uid = uid_from_digest(file_sha256(archive.path))
    return Outcome(uid, None, archive.name, error.status, error.reason, error.message, file=archive.name)


def _files(root: Path, roots: InputRoots) -> tuple[list[Path], list[Outcome]]:
    """Return the regular files below a folder, and an outcome for each folder that could not be listed."""
    found: list[Path] = []
    closed: list[Outcome] = []
    folders, links = [root], 0
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        links += 1
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        found.append(Path(entry.path))
        except OSError as error:
            closed.append(not_opened(folder, folder, roots, error))
    if links:
        logger.warning("%d symbolic links were not followed; give the folder that they lead to", links)
    return sorted(found, key=os.fspath), closed


def not_opened(path: Path, folder: Path, roots: InputRoots, error: OSError) -> Outcome:
    """Return the outcome of a file or folder that the system did not open: `failed`, for a second try may succeed."""
    digest = hashlib.sha256(os.fsencode(roots.relative(path))).hexdigest()
    message = f"the file or folder whose path has the SHA-256 {digest[:16]}… was not opened: {system_reason(error)}"
    where, file = roots.folder(folder), roots.folder(path)
    return Outcome(uid_from_digest(digest), None, where, "failed", "FILE_NOT_OPENED", message, file=file)
