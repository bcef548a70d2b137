"""The Python libraries of a variant, installed from its lock, by hash, without running anything of theirs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final, Literal

from app.packaging.programs import run

Variant = Literal["cpu", "gpu"]
MACHINE: Final = "x86_64"
PYTHON: Final = "3.11"
GLIBC_MINOR: Final = 36  # of Debian bookworm


def lock_of(variant: Variant) -> Path:
    """Return the lock with a variant's pins and hashes."""
    return Path(__file__).with_name(f"requirements-{variant}.lock")


def lock_pins(lock: Path) -> dict[str, str]:
    """Return the versions that a lock pins, by the libraries' names."""
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+) \\$", lock.read_text(encoding="utf-8"), re.MULTILINE))


def install(lock: Path, target: Path) -> None:
    """Install a lock into a folder, for the image's Python and not for the one that runs this.

    Args:
        lock: pins with hashes, complete: what a package asks for in its turn is not followed.
        target: does not exist yet.

    Raises:
        RunFailed: `BUILD_FAILED`.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--target", str(target)]
    checked = ["--no-deps", "--require-hashes", "--requirement", str(lock), "--no-compile"]
    run([*pip, *checked, *_platform()])
    _link(target)


def _platform() -> list[str]:
    tags = [f"manylinux_2_{minor}_{MACHINE}" for minor in range(GLIBC_MINOR, 4, -1)]
    tags += [f"manylinux2014_{MACHINE}", f"manylinux2010_{MACHINE}", f"manylinux1_{MACHINE}", f"linux_{MACHINE}"]
    abis = [word for abi in ("cp311", "abi3", "none") for word in ("--abi", abi)]
    platforms = [word for tag in tags for word in ("--platform", tag)]
    return ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", *abis, *platforms]


def _link(target: Path) -> None:
    """Make the links that holoscan's wheel lists, and would make when Python starts for the first time.

    And one to the CUDA runtime, which holoscan's libraries load without a GPU too, and look for beside themselves.
    """
    for listed in target.glob("*.dist-info/symlinks.txt"):
        for line in listed.read_text(encoding="utf-8").splitlines():
            place, to, *_ = line.split(",")
            link = target / place.partition("purelib/")[2]
            if not link.is_symlink():
                link.symlink_to(to)
    for runtime in target.glob("nvidia/*/lib/libcudart.so.*"):
        (target / "holoscan" / "lib" / runtime.name).symlink_to(Path("..", "..") / runtime.relative_to(target))
    for hook in target.glob("*.pth"):
        hook.unlink()
