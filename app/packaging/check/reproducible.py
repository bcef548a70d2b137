"""The clauses on size and on what makes two builds of one commit the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from app.packaging.check.clause import CannotTell, Clause, NotHeld, named
from app.packaging.check.image import Image
from app.packaging.check.python_folders import python_folders
from app.packaging.check.start import LABEL
from app.packaging.check.tree import Entry

MB: Final = 1_000_000
UNPACKED_MB: Final = 850
PACKED_MB: Final = 300
STANDARD: Final = re.compile(r".*/lib/python3\.\d+")
SOURCE: Final = re.compile(r".*/[^/]+\.py")
CACHE: Final = re.compile(r"(.*/)__pycache__/([^/]+)\.cpython-\d+\.pyc")


def digests(image: Image) -> str:
    """Check that every blob is the one that its digest names; an archive where one is not cannot be read at all."""
    known = image.contents.digest or "which an archive of docker's does not name"
    return f"{image.contents.kind} archive, {len(image.layers)} layers, manifest {known}"


def unpacked(image: Image) -> str:
    """Check that the files of all layers have at most 850 MB; an image with torch has no limit."""
    return _within(image, image.layer_bytes, UNPACKED_MB)


def packed(image: Image) -> str:
    """Check that the layers have at most 300 MB as they travel; an image with torch has no limit."""
    return _within(image, image.packed_bytes, PACKED_MB)


def _within(image: Image, size: int, most: int) -> str:
    found = f"{size / MB:.0f} MB"
    if any(f"{folder}/torch" in image.tree.entries for folder in python_folders(image.tree)):
        raise CannotTell(f"{found}; the limit of {most} MB is for images without torch")
    if size > most * MB:
        raise NotHeld(found, f"at most {most} MB", "leave out what nothing imports")
    return f"{found} of {most} MB"


def created(image: Image) -> str:
    """Check that the image was made at the time that its label gives, to the second, by the clock of the commit."""
    found, label = _time(image.contents.document.get("created")), _time(image.labels.get(LABEL + "created"))
    if found is None or label is None or found != label or found % 1:
        text = (
            f"created is {image.contents.document.get('created')!r}, the label {image.labels.get(LABEL + 'created')!r}"
        )
        raise NotHeld(text, "one time, whole seconds", "build with SOURCE_DATE_EPOCH of the commit")
    history = image.contents.document.get("history")
    steps = [_time(one.get("created")) for one in history if isinstance(one, dict)] if isinstance(history, list) else []
    later = [step for step in steps if step is not None and step > found]
    if later:
        raise NotHeld(f"{len(later)} steps of the history are later", "none", "build with SOURCE_DATE_EPOCH")
    return datetime.fromtimestamp(found, UTC).isoformat()


def times(image: Image) -> str:
    """Check that no file is newer than the image says it is: such a time comes from a clock, not from the commit."""
    made = _time(image.contents.document.get("created"))
    if made is None:
        raise NotHeld("the image has no time", "created", "build with SOURCE_DATE_EPOCH of the commit")
    newer = [path for path, entry in image.tree.below("/") if entry.mtime > made or entry.mtime % 1]
    if newer:
        text = f"{len(newer)} files newer than {datetime.fromtimestamp(made, UTC).isoformat()}: {named(newer)}"
        raise NotHeld(text, "none", "clamp the times of all files to SOURCE_DATE_EPOCH")
    return "no file is newer than the image"


def compiled(image: Image) -> str:
    """Check that Python's code is compiled and fits its source: a read-only image would compile it at every start."""
    standard = [path for path, _ in image.tree.below("/usr") if STANDARD.fullmatch(path)]
    folders = ("/opt/holoscan/app", *standard, *python_folders(image.tree))
    below = {path: entry for folder in folders for path, entry in image.tree.below(folder)}
    sources = [path for path, entry in below.items() if entry.kind == "file" and SOURCE.fullmatch(path)]
    if not sources:
        raise CannotTell("no Python code in /opt/holoscan/app or in packages")
    caches: dict[str, list[Entry]] = {}
    for path, entry in below.items():
        if match := CACHE.fullmatch(path):
            caches.setdefault(f"{match[1]}{match[2]}.py", []).append(entry)
    stale = [
        path
        for path in sources
        if not any(_fits(image.content(cache)[:16], below[path]) for cache in caches.get(path, ()))
    ]
    if stale:
        text = f"{len(stale)} of {len(sources)} files not compiled, or stale: {named(stale)}"
        raise NotHeld(text, "all", "python -m compileall --invalidation-mode unchecked-hash, in the last step")
    return f"{len(sources)} files"


def _fits(header: bytes, source: Entry) -> bool:
    """Return whether bytecode belongs to its source (PEP 552): by hash, which needs no times, or by time and size."""
    if len(header) < 16:
        return False
    if int.from_bytes(header[4:8], "little"):
        return True
    return header[8:] == (int(source.mtime) & 0xFFFFFFFF).to_bytes(4, "little") + source.size.to_bytes(4, "little")


def _time(text: object) -> float | None:
    """Return the seconds since 1970 of an RFC 3339 time; None for any other text."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    except ValueError:
        return None
    return found.replace(tzinfo=found.tzinfo or UTC).timestamp()


CLAUSES: Final[Mapping[str, Clause[Image]]] = {
    "ARCHIVE_DIGESTS": digests,
    "ARCHIVE_UNPACKED": unpacked,
    "ARCHIVE_PACKED": packed,
    "ARCHIVE_CREATED": created,
    "ARCHIVE_TIMES": times,
    "ARCHIVE_COMPILED": compiled,
}
