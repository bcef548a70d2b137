"""A digest of what turns the bytes of a scan into windows: cached windows are made again when it changes."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata
from importlib.resources import files
from importlib.resources.abc import Traversable

_LIBRARIES = ("imagecodecs", "numpy", "pydicom", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "scipy")
_CODE = (
    *(("operators", name) for name in ("dicom", "geometry", "images", "input", "series", "synthetic")),
    *(("operators", name) for name in ("build_volume.py", "preprocess.py", "read_study.py", "types.py")),
    *(("models", name) for name in ("statistics/body.py", "statistics/tissues.py")),
)
"""Package and place in it: from files to HU, from HU to windows and changed windows. A scan's key and stamp cover the
selection and the repairs."""


@cache
def reading_digest() -> str:
    """Return the SHA-256, in hex, of the code that reads, builds and resamples, and of its libraries' versions.

    The version of this project would not suffice: after a decoder is repaired between two releases, training would use
    the windows of the old one.
    """
    digest = hashlib.sha256()
    for package, name in _CODE:
        for path, content in sorted(_sources(files(package).joinpath(name), f"{package}/{name}")):
            digest.update(f"{path} {len(content)}\n".encode() + content)
    for library in _LIBRARIES:
        digest.update(f"{library} {_version(library)}\n".encode())
    return digest.hexdigest()


def _sources(place: Traversable, path: str) -> list[tuple[str, bytes]]:
    if place.is_file():
        return [(path, place.read_bytes())] if path.endswith(".py") else []
    return [found for inner in place.iterdir() for found in _sources(inner, f"{path}/{inner.name}")]


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "none"
