"""The base of the image: one of a registry, or one made here with debootstrap."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Final

from app.packaging.programs import find, run
from operators.errors import StartError

SUITE: Final = "bookworm"
FROM_REGISTRY: Final = "docker.io/library/python:3.11-slim-bookworm"
MIRROR: Final = "http://deb.debian.org/debian"
# debootstrap copies the names of this machine and of its name servers: they do not leave it.
_LEFT_OUT: Final = (
    "./etc/hostname", "./etc/resolv.conf", "./dev/*", "./proc/*", "./sys/*", "./run/*",
    "./var/cache/apt/*", "./var/lib/apt/lists/*", "./var/log/*",
)  # fmt: skip
_TAR: Final = ("--sort=name", "--mtime=@0", "--numeric-owner", "--one-file-system")


def debian_base(archive: Path, mirror: str = MIRROR) -> Path:
    """Make a root file system of Debian with Python as a tar archive, where it does not exist already.

    Args:
        archive: where it is kept; the same archive gives the same image.
        mirror: of Debian.

    Raises:
        StartError: `NO_PROGRAM`; `NOT_ACCESSIBLE`: debootstrap runs as root only.
        RunFailed: `BUILD_FAILED`.
    """
    if archive.is_file():
        return archive
    program = find("debootstrap", package="debootstrap")
    if os.getuid() != 0:
        raise StartError("NOT_ACCESSIBLE", "debootstrap runs as root only; run as root, or give --base an image")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        root = Path(folder, "root")
        run([program, "--variant=minbase", "--include=python3", SUITE, str(root), mirror])
        unfinished = Path(folder, "base.tar")
        run(["tar", *_TAR, *(f"--exclude={name}" for name in _LEFT_OUT), "-C", str(root), "-cf", str(unfinished), "."])
        unfinished.rename(archive)
    return archive


def chosen_base(folder: Path) -> str:
    """Return the base to build on where none was named: the registry's where it can be reached, else our own.

    Args:
        folder: keeps the archive of our own.

    Raises:
        StartError: as `debian_base`.
        RunFailed: as `debian_base`.
    """
    own = folder / f"base-{SUITE}.tar"
    if own.is_file() or not registry_reached():
        return str(debian_base(own))
    return FROM_REGISTRY


def registry_reached(seconds: float = 5) -> bool:
    """Return whether the registry of the base image answers at all."""
    try:
        with socket.create_connection(("registry-1.docker.io", 443), timeout=seconds):
            return True
    except OSError:
        return False
