"""Where Python's packages lie in an image, however its path is set."""

from __future__ import annotations

import posixpath
import re
from typing import Final

from app.packaging.check.tree import Tree

_PACKAGES: Final = re.compile(r".*/(site|dist)-packages")
_METADATA: Final = re.compile(r"(.*)/[^/]+\.(?:dist-info/METADATA|egg-info/PKG-INFO)")


def python_folders(tree: Tree) -> list[str]:
    """Return the folders that hold packages: by their name, or because a package's metadata lie there."""
    named = {path for path, entry in tree.below("/") if entry.kind == "folder" and _PACKAGES.fullmatch(path)}
    return sorted(named | {posixpath.dirname(posixpath.dirname(path)) for path in metadata_files(tree)})


def metadata_files(tree: Tree) -> list[str]:
    """Return the file with name and version of each package that is installed."""
    return [path for path, entry in tree.below("/") if entry.kind == "file" and _METADATA.fullmatch(path)]
