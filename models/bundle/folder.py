"""A bundle's folder is changed as a whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from models.spec import BundleError


@contextmanager
def fresh_copy(path: Path, *, without: Sequence[str]) -> Iterator[Path]:
    """A copy of a folder, but for the named files, to be changed in the block; it then takes the folder's place.

    Should the block or the renaming end early, the folder stays as it was. Even of a process that is killed between the
    two renames the former folder is left: as `old` in a hidden folder beside it.
    """
    workspace = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    fresh, old = workspace / "new", workspace / "old"
    try:
        if path.exists():
            shutil.copytree(path, fresh, symlinks=True, ignore=_named(path, without))
        yield fresh
        if path.exists():
            path.rename(old)
        fresh.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(workspace)


def _named(folder: Path, names: Sequence[str]) -> Callable[[str, list[str]], list[str]]:
    """For `copytree`: what to leave out, by paths inside of the folder."""
    return lambda inside, found: [one for one in found if (Path(inside) / one).relative_to(folder).as_posix() in names]


def put(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their paths inside of the folder; no link is followed.

    Raises:
        BundleError: a folder in it is a link that leads elsewhere.
    """
    for name, content in files.items():
        target = folder / name
        if not target.parent.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"the folder of {name} is a link that leads out of the bundle; make it a folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_bytes(content)
