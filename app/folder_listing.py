"""What lies in a folder, sorted by name; of a large folder the names lie on the disk, so that memory stays bounded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from app.on_disk import DiskList

HELD: Final = 20_000
"""Names that are held in memory, about 3 MB."""
FILE: Final = "file"
FOLDER: Final = "folder"
LINK: Final = "link"
OTHER: Final = "other"


class Listing:
    """The entries of one folder: regular files, folders, symbolic links and others (sockets, pipes, devices)."""

    def __init__(self, folder: Path) -> None:
        """Read the names.

        Raises:
            OSError: the folder cannot be read.
            CtvaeError: `INPUT_OUTPUT_ERROR`: the temporary file for its names cannot be written.
        """
        self._held: dict[bytes, str] = {}
        self._more: DiskList | None = None
        with os.scandir(os.fsencode(folder)) as entries:
            for entry in entries:
                self._held[entry.name] = _kind(entry)
                if len(self._held) == HELD:
                    self._more = self._more or DiskList()
                    self._more.extend(self._held.items())
                    self._held.clear()
        if self._more:
            self._more.extend(self._held.items())
            self._held.clear()

    def __contains__(self, name: str) -> bool:
        """Return whether an entry has this name."""
        return os.fsencode(name) in (self._more or self._held)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield name and kind of each entry, in a fixed order."""
        for name, kind in self._more or sorted(self._held.items()):
            yield os.fsdecode(name), kind


def _kind(entry: os.DirEntry[bytes]) -> str:
    if entry.is_symlink():
        return LINK
    if entry.is_dir(follow_symlinks=False):
        return FOLDER
    return FILE if entry.is_file(follow_symlinks=False) else OTHER
