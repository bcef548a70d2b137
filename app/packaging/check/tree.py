"""The files of an image as its layers describe them, in memory: nothing is unpacked to look at them."""

from __future__ import annotations

import posixpath
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

Kind = Literal["file", "folder", "link", "device", "pipe"]
MOST_LINKS: Final = 40  # as Linux has it


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, folder or link of the image.

    Attributes:
        mode: the twelve bits of permissions, setuid and its kin included.
        mtime: seconds since 1970.
        size: bytes of a file; 0 for the rest.
        target: where a link leads, as it stands in the archive.
        layer: number of the layer that holds a file's bytes.
        offset: where in the unpacked layer they begin.
        capabilities: whether the file grants Linux capabilities.
    """

    kind: Kind
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: float = 0
    size: int = 0
    target: str = ""
    layer: int = 0
    offset: int = 0
    capabilities: bool = False


class LeavesRoot(Exception):
    """A link that climbs above the root of the image, or one of too many links in a row."""

    def __init__(self, path: str) -> None:
        super().__init__(f"the link {path} leads out of the image or nowhere; expected links inside it; link elsewhere")


@dataclass(frozen=True)
class Tree:
    """The files that a container sees.

    Attributes:
        entries: by absolute path, `/etc/passwd`; the root itself is `/`. Parents of an entry are folders.
    """

    entries: Mapping[str, Entry]

    @cached_property
    def _paths(self) -> list[str]:
        return sorted(self.entries)

    def below(self, folder: str) -> Iterator[tuple[str, Entry]]:
        """Iterate over what a folder holds, at any depth, sorted by path; links are not followed."""
        start = folder.rstrip("/") + "/"
        for path in self._paths[bisect_left(self._paths, start) :]:
            if not path.startswith(start):
                return
            if path != "/":
                yield path, self.entries[path]

    def resolve(self, path: str) -> str | None:
        """Follow links as a process in the container would; None where nothing is.

        Raises:
            LeavesRoot: a link climbs above the root, or the links do not end.
        """
        waiting, done, hops = _parts(path), "/", 0
        while waiting:
            part = waiting.pop(0)
            if part == "..":
                done = posixpath.dirname(done)
                continue
            here = posixpath.join(done, part)
            entry = self.entries.get(here)
            if entry is None or (entry.kind != "folder" and entry.kind != "link" and waiting):
                return None
            if entry.kind != "link":
                done = here
                continue
            hops += 1
            if hops > MOST_LINKS or climbs_out(here, entry.target):
                raise LeavesRoot(here)
            waiting = _parts(entry.target) + waiting
            done = "/" if entry.target.startswith("/") else done
        return done

    def find(self, path: str) -> Entry | None:
        """Return what a path leads to, links followed; None where nothing is, or where a link leaves the root."""
        try:
            found = self.resolve(path)
        except LeavesRoot:
            return None
        return None if found is None else self.entries[found]


def climbs_out(path: str, target: str) -> bool:
    """Return whether a link at `path` goes up more folders than it lies deep."""
    depth = 0 if target.startswith("/") else path.count("/") - 1
    for part in _parts(target):
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
