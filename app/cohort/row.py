"""One file of a cohort, as it stands in the index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["dicom", "image", "unreadable", "other"]


@dataclass(frozen=True, slots=True)
class Row:
    """One file, or one instance on a server.

    Attributes:
        archive: ZIP archive that it is in, relative to the root; empty for a file of its own. Bytes, as the system has
            them: a name need not be UTF-8.
        path: relative to the root, or in its archive.
        size: bytes; of what is in an archive the archive's, and so is the time; 0 for what a server has.
        study: StudyInstanceUID as it stands in the file.
        series: likewise; of a file in a research format its UID, a digest.
        folder: of the file relative to the root, an archive being a folder; of a research format the file itself.
        about: of an unreadable file, how it ended, as JSON.
    """

    archive: bytes
    path: bytes
    size: int
    mtime_ns: int
    kind: Kind
    study: str
    series: str
    folder: str
    about: str
