"""What a worker is given: the files of one study, or of what stands for one."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property

from app.cohort.row import Row
from operators.uids import uid_from_digest


@dataclass(frozen=True)
class Unit:
    """Files that are read, selected and encoded together, and that no other unit shares a result with.

    A study is a unit, for a series is selected among those of its study; files without a study go by series, or else by
    folder. Copies of one file in a research format are a unit too.

    Attributes:
        name: of the unit, from the headers.
        files: in a fixed order.
        lost: folder → number of unreadable files in it, which may belong to a series here.
        shared: SeriesInstanceUID → number of studies in which it occurs, where that is more than one.
    """

    name: str
    files: tuple[Row, ...]
    lost: Mapping[str, int]
    shared: Mapping[str, int]

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything here: what was encoded of a unit with the same one is still right."""
        stated = [
            [one.archive.hex(), one.path.hex(), one.size, one.mtime_ns, one.study, one.series] for one in self.files
        ]
        text = json.dumps([stated, sorted(self.lost.items()), sorted(self.shared.items())])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def folder_name(self) -> str:
        """Name of the folder for its files, the same wherever and whenever it is encoded."""
        return self.folder_of(self.name)

    @staticmethod
    def folder_of(name: str) -> str:
        """Return the same for the name of a unit."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        return f"{digest[:2]}/{digest[:16]}"

    @property
    def is_image(self) -> bool:
        """Whether it is a file in a research format, with its copies."""
        return self.files[0].kind == "image"

    def body(self) -> bytes:
        """Return all of it, compressed: what a worker on another machine is sent."""
        files = [[one.archive.hex(), one.path.hex(), *astuple(one)[2:]] for one in self.files]
        return zlib.compress(json.dumps([self.name, files, self.lost, self.shared]).encode(), 1)

    @staticmethod
    def from_body(body: bytes) -> Unit:
        """Return the unit with this body."""
        name, files, lost, shared = json.loads(zlib.decompress(body))
        rows = (Row(bytes.fromhex(archive), bytes.fromhex(path), *rest) for archive, path, *rest in files)
        return Unit(name, tuple(rows), lost, shared)

    def places(self, study: str, series: str, folder: str) -> tuple[str, ...]:
        """Return every folder in which a series lies.

        Args:
            study: StudyInstanceUID as it stands in its files.
            series: likewise.
            folder: of its first file, which alone tells a series without UID apart.
        """
        if self.is_image:
            return places_of(self.files)
        mine = [one for one in self.files if (one.study, one.series) == (study, series)]
        return places_of(mine if series else [one for one in mine if one.folder == folder]) or (folder,)

    def series(self) -> dict[str, tuple[str, ...]]:
        """Return its series by the UIDs that the files state (one is made up for those without), each with its places.

        What is said of them where they could not be read again.
        """
        found: dict[str, list[Row]] = {}
        for one in self.files:
            uid = one.series or uid_from_digest(hashlib.sha256(f"{self.name}\n{one.folder}".encode()).hexdigest())
            found.setdefault(uid, []).append(one)
        return {uid: places_of(rows) for uid, rows in sorted(found.items())}


def places_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the folders of these files, each once, sorted."""
    return tuple(sorted({row.folder for row in rows}))
