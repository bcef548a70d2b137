"""The layers of an image → its files: later layers replace, and their whiteouts remove, what earlier ones hold.

The image specification of the OCI, 1.0.2, "Image Layer Filesystem Changeset". Nothing is taken on trust: a path that
leads out of the root or through a link, two files at one path, or a hard link to nothing ends the reading.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from app.packaging.check.tree import Entry, Kind, Tree
from operators.errors import StartError

WHITEOUT: Final = ".wh."
OPAQUE: Final = ".wh..wh..opq"
MOST_ENTRIES: Final = 1_000_000
LONGEST_PATH: Final = 4096
_CAPABILITY: Final = "SCHILY.xattr.security.capability"


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer says.

    Attributes:
        entries: by path, in the order of the archive.
        copies: hard links: path → path of the file that they name again.
        removed: paths that earlier layers hold and this one deletes.
        emptied: folders whose earlier content this one hides.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    emptied: set[str] = field(default_factory=set)


def refused(found: str, expected: str = "an image that docker save, buildah or skopeo wrote") -> StartError:
    """Return the error for an archive that is not safe to read, or no image."""
    return StartError("BAD_IMAGE", f"{found}; expected {expected}; build or save the image again")


def read_layer(file: BinaryIO, number: int) -> Layer:
    """Read the headers of an unpacked layer.

    Args:
        file: a tar archive that can be sought in.
        number: of the layer.

    Raises:
        StartError: `BAD_IMAGE`.
    """
    layer = Layer()
    try:
        with tarfile.open(fileobj=file, mode="r:", errorlevel=2) as archive:
            for count, member in enumerate(archive):
                if count >= MOST_ENTRIES:
                    raise refused(f"layer {number} has more than {MOST_ENTRIES} entries")
                _enter(layer, member, number)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise refused(f"layer {number} is no tar archive that can be read ({type(error).__name__})") from error
    return layer


def _enter(layer: Layer, member: tarfile.TarInfo, number: int) -> None:
    path = inside(member.name, f"layer {number}")
    folder, name = posixpath.split(path)
    if name == OPAQUE:
        layer.emptied.add(folder)
        return
    if name.startswith(WHITEOUT):
        target = name.removeprefix(WHITEOUT)
        if target in ("", ".", ".."):
            raise refused(f"layer {number} holds the whiteout {path!r}, which names no file")
        layer.removed.add(posixpath.join(folder, target))
        return
    if (
        path in layer.entries and not (member.isdir() and layer.entries[path].kind == "folder")
    ) or path in layer.copies:
        raise refused(f"layer {number} holds {path!r} twice")
    if member.islnk():
        layer.copies[path] = inside(member.linkname, f"a hard link of layer {number}")
    else:
        layer.entries[path] = _entry(member, number)


def _entry(member: tarfile.TarInfo, number: int) -> Entry:
    if member.issparse():
        raise refused(f"layer {number} holds a sparse file")
    kind: Kind | None = (
        "file"
        if member.isreg()
        else "folder"
        if member.isdir()
        else "link"
        if member.issym()
        else "pipe"
        if member.isfifo()
        else "device"
        if member.isdev()
        else None
    )
    if kind is None or member.size < 0:
        raise refused(f"layer {number} holds an entry of a kind that no image has ({member.type!r})")
    return Entry(
        kind,
        member.mode & 0o7777,
        member.uid,
        member.gid,
        member.mtime,
        member.size if kind == "file" else 0,
        member.linkname if kind == "link" else "",
        number,
        member.offset_data,
        _CAPABILITY in member.pax_headers,
    )


def inside(name: str, where: str) -> str:
    """Return the absolute path that a name in an archive means.

    Raises:
        StartError: `BAD_IMAGE`; it leads out, or is no path.
    """
    if name.startswith("/") or ".." in name.split("/") or "\0" in name or len(name) > LONGEST_PATH:
        raise refused(f"{where} names {name[:100]!r}, which may lie outside of the image", "relative paths without ..")
    return posixpath.normpath("/" + name)


def merged(layers: Iterable[Layer]) -> Tree:
    """Put the layers on top of one another.

    Raises:
        StartError: `BAD_IMAGE`; a layer is not possible on top of the ones before.
    """
    entries: dict[str, Entry] = {"/": Entry("folder")}
    for number, layer in enumerate(layers):
        _remove(entries, layer)
        for path, entry in layer.entries.items():
            _place(entries, path, entry, number)
        for path, source in layer.copies.items():
            original = entries.get(source)
            if original is None or original.kind != "file":
                raise refused(f"layer {number} holds the hard link {path!r} to {source!r}, which is no file")
            _place(entries, path, original, number)
    return Tree(entries)


def _remove(entries: dict[str, Entry], layer: Layer) -> None:
    """Remove what the layer deletes, hides, or replaces by something that is no folder, with all that lies below."""
    replaced = {
        path
        for path, entry in [*layer.entries.items(), *((path, None) for path in layer.copies)]
        if path in entries and entries[path].kind == "folder" and (entry is None or entry.kind != "folder")
    }
    whole = layer.removed | replaced
    if not whole and not layer.emptied:
        return
    for path in [path for path in entries if _is_removed(path, whole, layer.emptied)]:
        del entries[path]


def _is_removed(path: str, whole: set[str], emptied: set[str]) -> bool:
    if path in whole:
        return path != "/"
    while path != "/":
        path = posixpath.dirname(path)
        if path in whole or path in emptied:
            return True
    return False


def _place(entries: dict[str, Entry], path: str, entry: Entry, number: int) -> None:
    parent = posixpath.dirname(path)
    missing = []
    while parent not in entries:
        missing.append(parent)
        parent = posixpath.dirname(parent)
    if entries[parent].kind != "folder":
        raise refused(f"layer {number} holds {path!r} below {parent!r}, which is no folder")
    if entry.kind != "folder" and path in entries and entries[path].kind == "folder":
        raise refused(f"layer {number} holds {path!r} both as a folder and as something else")
    entries.update((folder, Entry("folder")) for folder in missing)
    entries[path] = entry
