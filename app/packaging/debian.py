"""The Debian packages of a root file system: listed, and removed without their scripts and without dpkg."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

STATUS = "var/lib/dpkg/status"
INFO = "var/lib/dpkg/info"
_LICENCE = re.compile(r"^License:[ \t]*(\S[^\n]*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DebianPackage:
    """An installed package.

    Attributes:
        name: without its architecture.
        version: Debian's.
        architecture: `amd64`, `all` …
        stanza: its paragraph of dpkg's status file.
        licences: short names, as its copyright file gives them; empty where that is free text.
    """

    name: str
    version: str
    architecture: str
    stanza: str
    licences: tuple[str, ...]


def installed(root: Path) -> list[DebianPackage]:
    """Return the packages of a root file system, sorted by name."""
    found = []
    for stanza in (root / STATUS).read_text(encoding="utf-8").strip().split("\n\n"):
        fields = dict(re.findall(r"^(\S+): (.*)$", stanza, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            licences = _licences(root / "usr/share/doc" / fields["Package"] / "copyright")
            found.append(DebianPackage(fields["Package"], fields["Version"], fields["Architecture"], stanza, licences))
    return sorted(found, key=lambda one: one.name)


def remove_packages(root: Path, kept: re.Pattern[str]) -> None:
    """Remove every package but some: its files that no kept package owns, and its entries in dpkg's database.

    Scanners read the database: after this it says what is there.

    Args:
        root: of the file system.
        kept: matches the whole name of what stays.
    """
    packages = installed(root)
    stay = [one for one in packages if kept.fullmatch(one.name)]
    owned = {file for one in stay for file in _files(root, one)}
    go = [file for one in packages if one not in stay for file in _files(root, one) if file not in owned]
    for path in sorted(set(go), key=lambda path: len(path.parts), reverse=True):
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()) and not path.is_mount():
            path.rmdir()
    names = {one.name for one in stay}
    for record in (root / INFO).iterdir():
        if record.name.split(":")[0].rsplit(".", 1)[0] not in names and record.name.split(":")[0] not in names:
            record.unlink()
    (root / STATUS).write_text("".join(f"{one.stanza}\n\n" for one in stay), encoding="utf-8")


def _files(root: Path, package: DebianPackage) -> list[Path]:
    """Return the files and folders of a package, where they really lie: /lib is a link to /usr/lib."""
    lists = (root / INFO / f"{package.name}{suffix}.list" for suffix in ("", f":{package.architecture}"))
    lines = [line for one in lists if one.is_file() for line in one.read_text(encoding="utf-8").splitlines()]
    paths = [root / line.lstrip("/") for line in lines if line not in ("/.", "/")]
    return [path.parent.resolve() / path.name for path in paths]


def _licences(copyright_file: Path) -> tuple[str, ...]:
    try:
        text = copyright_file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return tuple(sorted({name.strip() for name in _LICENCE.findall(text)}))
