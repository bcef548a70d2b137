"""The files of a unit as they can be read: archives unpacked, headers read."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from app.cohort.source import open_archive
from app.cohort.units import Unit
from operators.errors import SeriesFailed
from operators.input.archives import Archive
from operators.input.files import InputRoots
from operators.read_study import Inventory, read_files
from operators.types import Outcome


def open_files(unit: Unit, root: Path, stack: ExitStack) -> tuple[InputRoots, list[Path]]:
    """Return the files of a unit; its archives stay unpacked as long as the stack.

    Raises:
        SeriesFailed: `INPUT_OUTPUT_ERROR`: an archive cannot be unpacked any more.
    """
    files = unit.files[:1] if unit.is_image else unit.files
    folders = {b"": root}
    archives: list[Archive] = []
    for name in sorted({one.archive for one in files} - {b""}):
        opened = stack.enter_context(open_archive(root / os.fsdecode(name), root))
        if not opened.roots.archives or opened.roots.archives[0].refused:
            refused = opened.closed[0]
            raise SeriesFailed("INPUT_OUTPUT_ERROR", f"{refused.reason}: {refused.message}")
        archives += opened.roots.archives
        folders[name] = opened.folder
    return InputRoots(root, archives), [folders[one.archive] / os.fsdecode(one.path) for one in files]


def read_unit(unit: Unit, roots: InputRoots, paths: list[Path]) -> Inventory:
    """Read the headers of a unit's files; what was unreadable when it was indexed counts, but is not listed again."""
    lost = [
        Outcome("", None, folder, "rejected", "UNREADABLE_FILE")
        for folder, count in unit.lost.items()
        for _ in range(count)
    ]
    inventory = read_files(roots, paths, lost, shared=unit.shared)
    return replace(inventory, unreadable=inventory.unreadable[len(lost) :])
