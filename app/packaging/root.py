"""The file system of the image, made inside the base: `python3 -m app.packaging.root CONTEXT`, from the Containerfile.

Needs nothing but Python, so that any Debian base with a python3 will do. What is made depends on the base and the
context alone: no time, no network, no host.
"""

from __future__ import annotations

import compileall
import json
import os
import re
import shutil
import stat
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Final

from app.packaging.cut import remove
from app.packaging.debian import installed, remove_packages
from app.packaging.layout import (
    APP,
    CONFIG,
    DOCS,
    INPUT,
    LIBRARIES,
    LOGS,
    MANIFESTS,
    MODELS,
    MONAI,
    OUTPUT,
    PROCESSING_CONTAINER,
    SBOM,
    WORK,
    below,
)
from app.packaging.sbom import bill_of_materials

# The Debian packages that Python and the libraries run on. coreutils is there for `cat`, with which mercure looks for
# /etc/monai/app.json, and dash for whoever starts a command through /bin/sh; nothing of ours calls either.
KEPT: Final = re.compile(
    r"base-files|base-passwd|coreutils|dash|libc6|libc-bin|libgcc-s1|libstdc\+\+6|gcc-\d+-base|zlib1g|media-types|tzdata|"
    r"python3|python3-minimal|python3\.\d+|python3\.\d+-minimal|libpython3-stdlib|libpython3\.\d+-(stdlib|minimal)|"
    r"libssl3|libsqlite3-0|libffi8|liblzma5|libbz2-1\.0|libexpat1|libuuid1|libdb5\.3|libreadline8|readline-common|"
    r"libtinfo6|libncursesw6|ncurses-base|libcrypt1|libacl1|libattr1|libselinux1|libpcre2-8-0|libgmp10|netbase|ca-certificates"
)
# Of Python itself: what builds, installs, tests or draws.
NOT_OF_PYTHON: Final = (
    "ensurepip", "idlelib", "lib2to3", "test", "tkinter", "turtledemo", "turtle.py", "pydoc_data", "config-*",
    "site-packages", "distutils", "venv", "lib-dynload/_test*", "lib-dynload/_tkinter*", "lib-dynload/xx*",
    "lib-dynload/_ctypes_test*", "lib-dynload/nis*", "unittest/test", "ctypes/test", "sqlite3/test",
)  # fmt: skip
# Caches, logs, backups and the tools' own traces; the folders themselves stay.
EMPTIED: Final = ("tmp", "var/tmp", "var/log", "var/cache", "var/backups", "var/lib/apt", "root", "run")
GONE: Final = (
    "usr/share/locale", "usr/share/man", "usr/share/info", "usr/share/lintian", "usr/share/bash-completion",
    "usr/share/perl5", "usr/share/debconf", "usr/share/gdb", "usr/share/pixmaps", "usr/share/common-licenses/BSD",
    "usr/lib/python3", "usr/share/python3", "usr/local/bin/idle*", "usr/local/bin/pip*", "usr/local/bin/2to3*",
    "usr/local/bin/pydoc*", "usr/local/bin/python*-config", "usr/local/include", "usr/local/share/man",
    "usr/local/lib/pkgconfig", "etc/apt", "etc/alternatives", "etc/*-", "etc/.pwd.lock", "var/lib/dpkg/*-old",
    "var/lib/dpkg/triggers", "var/lib/dpkg/updates", "var/lib/dpkg/lock*", "var/lib/dpkg/info/*.md5sums",
    "var/lib/dpkg/info/*inst", "var/lib/dpkg/info/*rm", "var/lib/dpkg/info/*.config", "var/lib/dpkg/info/*.templates",
    "etc/hostname", "etc/resolv.conf", "etc/rc?.d", "etc/systemd", "etc/security", "etc/pam.d", "etc/skel",
    "etc/update-motd.d", "etc/motd", "etc/fstab", "etc/issue*", "etc/profile*", "etc/inputrc", "etc/python3*",
    "etc/dpkg", "etc/default", "etc/terminfo", "var/lib/pam", "var/lib/systemd", "var/lib/misc", "var/lib/python",
    "home", "srv", "media", "boot", "opt/containerd", "var/local", "var/mail", "var/opt", "var/spool", "var/lock",
    "usr/local/games", "usr/local/share", "usr/local/src", "usr/local/sbin", "usr/local/etc", "usr/games", "usr/src",
)  # fmt: skip


def make_root(context: Path, root: Path = Path("/")) -> None:
    """Turn a Debian base into the image's file system.

    Args:
        context: what `app.packaging.build` prepared, read-only.
        root: the base.
    """
    remove_packages(root, KEPT)
    cut_base(root)
    place_files(context, root)
    for folder in (Path(sysconfig.get_path("stdlib")), below(root, LIBRARIES), below(root, APP)):
        compile_bytecode(folder)
    components = json.loads((context / "components.json").read_bytes())
    bill = bill_of_materials(below(root, LIBRARIES), installed(root), components)
    below(root, SBOM).write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    without_set_id(root)


def cut_base(root: Path) -> None:
    """Remove from the base what a container that only runs does not need."""
    library = Path(sysconfig.get_path("stdlib"))
    for pattern in NOT_OF_PYTHON:
        for found in library.glob(pattern):
            remove(found)
    for pattern in (*GONE, *(f"{folder}/*" for folder in EMPTIED)):
        for found in root.glob(pattern):
            with suppress(OSError):  # the builder's own mounts are busy, and go with it
                remove(found)
    for found in (root / "usr/share/doc").glob("*/*"):  # the licences stay
        if found.name != "copyright":
            remove(found)
    for folder in (root / "usr/bin", root / "usr/sbin", root / "usr/lib", root / "usr/local/bin", library):
        for link in folder.glob("*"):
            if link.is_symlink() and not link.exists():
                link.unlink()


def place_files(context: Path, root: Path) -> None:
    """Copy application, libraries, bundles, pages and manifests to their places, with plain permissions."""
    for source, place in (("app", APP), ("lib", LIBRARIES), ("models", MODELS), ("docs", DOCS), ("etc", MANIFESTS)):
        target = below(root, place)
        remove(target)
        shutil.copytree(context / source, target, symlinks=True, copy_function=_copy)
    below(root, LIBRARIES).with_name("site-packages").symlink_to(LIBRARIES.name)
    for place, mode in ((WORK, 0o755), (INPUT, 0o755), (OUTPUT, 0o1777), (LOGS, 0o1777)):
        folder = below(root, place)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
    _copy(context / "app.yaml", below(root, CONFIG))
    _copy(context / "processing-container.json", below(root, PROCESSING_CONTAINER))
    below(root, MONAI).symlink_to(MANIFESTS.name)
    for folder in (root / "opt/holoscan", below(root, LIBRARIES)):
        for path in (folder, *folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)


def compile_bytecode(folder: Path) -> None:
    """Compile every module once, so that nothing is compiled at start.

    The bytecode is never compared with the time of its source, which an image has none of.
    """
    for cache in list(folder.rglob("__pycache__")):
        remove(cache)
    compileall.compile_dir(folder, quiet=2, force=True, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH, workers=1)


def without_set_id(root: Path) -> None:
    """Take the setuid and setgid bits from every file and folder, and from files the write permission of others."""
    device = root.stat().st_dev
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if os.lstat(Path(place, name)).st_dev == device]
        for path in (Path(place, name) for name in (*folders, *files)):
            mode = path.lstat().st_mode
            unwanted = 0o6022 if stat.S_ISREG(mode) else 0o6000 if stat.S_ISDIR(mode) else 0
            if mode & unwanted:
                path.chmod(stat.S_IMODE(mode) & ~unwanted)


def _copy(source: str | Path, target: str | Path) -> None:
    shutil.copyfile(source, target, follow_symlinks=False)
    if not Path(target).is_symlink():
        Path(target).chmod(0o644)


if __name__ == "__main__":
    make_root(Path(sys.argv[1]))
