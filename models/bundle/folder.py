"""A bundle's folder, changed as a whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from models.spec import BundleError


@contextmanager
def fresh_copy(path: Path, *, without: Sequence[str]) -> Iterator[Path]:
    """Yield a copy of a folder, without the named files, to change in the block; it then replaces the folder.

    If the block or the renaming ends early, the folder stays as it was. Even if the process is killed between the two
    renames, the former folder survives: as `old` in a hidden folder beside it.
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
    """Return for `copytree` what to leave out, by paths inside the folder."""
    return lambda inside, found: [
        name for name in found if (Path(inside) / name).relative_to(folder).as_posix() in names
    ]


def put(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their paths inside the folder, without following links.

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
