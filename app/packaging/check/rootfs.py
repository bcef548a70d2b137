"""The files of an image on disk, for a sandbox to run: written by nobody but this module, and gone with the block."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.packaging.check.image import Image
from app.packaging.check.tree import Entry, Tree

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Rootfs:
    """An image's files on disk.

    Attributes:
        folder: where its root lies.
        tree: its files.
    """

    folder: Path
    tree: Tree

    @contextmanager
    def mount_points(self, paths: list[str]) -> Iterator[list[str]]:
        """Make folders where they are missing, as docker does for what it mounts; they go when the block ends.

        Args:
            paths: in the container.

        Yields:
            The paths without links.
        """
        made: list[str] = []
        try:
            yield [self._mount_point(path, made) for path in paths]
        finally:
            for path in reversed(made):
                (self.folder / path[1:]).rmdir()

    def _mount_point(self, path: str, made: list[str]) -> str:
        real = "/"
        for part in filter(None, path.split("/")):
            here = posixpath.join(real, part)
            found = here if here in made else self.tree.resolve(here)
            if found is None:
                (self.folder / here[1:]).mkdir(mode=0o755)
                made.append(here)
            real = found or here
        return real


def write_rootfs(image: Image, folder: Path) -> Rootfs:
    """Write the files of an image into an empty folder.

    Owners are kept where this process may set them. Devices and pipes are left out, and setuid bits: a file of the
    image must not become a way to root on this machine.
    """
    hard: dict[tuple[int, int], Path] = {}
    folder.chmod(0o755)
    entries = list(image.tree.below("/"))
    for path, entry in entries:
        target = folder / path[1:]
        if entry.kind == "folder":
            target.mkdir(mode=0o700)
        elif entry.kind == "link":
            target.symlink_to(entry.target)
        elif entry.kind == "file":
            _write_file(image, entry, target, hard)
        if entry.kind in ("folder", "link", "file") and os.geteuid() == 0:
            os.chown(target, entry.uid, entry.gid, follow_symlinks=False)
        if entry.kind == "file":
            target.chmod(entry.mode & 0o777)
    for path, entry in reversed(entries):
        if entry.kind == "folder":
            (folder / path[1:]).chmod(entry.mode & 0o1777)
    return Rootfs(folder, image.tree)


def _write_file(image: Image, entry: Entry, target: Path, hard: dict[tuple[int, int], Path]) -> None:
    place = (entry.layer, entry.offset)
    if entry.size and place in hard:
        target.hardlink_to(hard[place])
        return
    source, left = image.layers[entry.layer], entry.size
    source.seek(entry.offset)
    with target.open("xb") as file:
        while left:
            chunk = source.read(min(_CHUNK, left))
            file.write(chunk)
            left -= len(chunk)
    hard[place] = target
