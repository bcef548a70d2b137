"""The clauses on what an image must not hold, or let others do."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from app.packaging.check.clause import Clause, NotHeld, named
from app.packaging.check.image import Image
from app.packaging.check.python_folders import python_folders
from app.packaging.check.tree import Entry, climbs_out

COMPILERS: Final = re.compile(
    r"/(usr/(local/)?)?s?bin/([\w-]+-)?(gcc|g\+\+|cc|c\+\+|clang|clang\+\+|ld|as|make|cmake|nvcc|rustc|go|tcc)(-[\d.]+)?"
)
PIP: Final = re.compile(r".*/(bin/(pip[\d.]*|uvx?)|pip|ensurepip|uv|pip-[^/]*\.(dist-info|whl))")
# Build configuration, caches, credentials, and logs of a build.
LEFT: Final = re.compile(
    r"/etc/pip\.conf|/etc/apt/(auth\.conf.*|apt\.conf\.d/.*proxy.*)|.*/\.(netrc|pip|pypirc|docker|git|ssh|aws)(/.*)?"
    r"|.*/\.config/(pip|uv)(/.*)?|.*/\.cache/.*|/var/lib/apt/lists/..*|/var/cache/(apt|ldconfig|debconf)/..*"
    r"|/var/log/..*|/(var/)?tmp/..*|/[r]oot/\.\w*history"
)
ROOTS_HOME: Final = "/" + "root"
EMPTY: Final = ("/mnt", "/media", "/proc", "/sys", "/dev", "/run", "/host")
SECRETS: Final = re.compile(
    r"(?i)\b((https?|all|no)_proxy|pip_(extra_)?index_url|pip_trusted_host|pip_cert|requests_ca_bundle|ssl_cert_file"
    r"|uv_(default_)?index\w*)=|--(extra-)?index-url|--trusted-h[o]st|\w*(password|token|secret)\w*="
)
SHARED: Final = ("/opt/holoscan", "/etc/holoscan", "/processing-container.json")


def links(image: Image) -> str:
    """Check that no symbolic link climbs above the root."""
    found = [(path, entry.target) for path, entry in image.tree.below("/") if entry.kind == "link"]
    out = [f"{path} → {target}" for path, target in found if climbs_out(path, target)]
    if out:
        raise NotHeld(f"links that leave the image: {named(out)}", "links inside it", "link to paths inside")
    return f"{len(found)} links, all inside"


def no_devices(image: Image) -> str:
    """Check that the image brings no device files and no pipes."""
    found = [path for path, entry in image.tree.below("/") if entry.kind in ("device", "pipe")]
    return _none(found, "device files or pipes", "remove them; the runtime makes /dev")


def no_setuid(image: Image) -> str:
    """Check that no file gives its runner another user, group or capability."""
    found = [
        path
        for path, entry in image.tree.below("/")
        if entry.kind == "file" and (entry.mode & 0o6000 or entry.capabilities)
    ]
    return _none(found, "files with setuid, setgid or capabilities", "chmod a-s them, or remove them")


def not_writable(image: Image) -> str:
    """Check that nothing in the image is writable for everybody, but folders with the sticky bit such as /tmp."""
    found = [
        path
        for path, entry in image.tree.below("/")
        if entry.kind in ("file", "folder")
        and entry.mode & 0o002
        and not (entry.kind == "folder" and entry.mode & 0o1000)
    ]
    return _none(found, "paths that everybody may write", "chmod o-w them")


def any_uid(image: Image) -> str:
    """Check that any user may read what the application needs: code, models, manifests, Python's packages."""
    found = [
        path
        for path, entry in _needed(image)
        if (entry.kind == "file" and not entry.mode & 0o004) or (entry.kind == "folder" and entry.mode & 0o005 != 0o005)
    ]
    return _none(
        sorted(set(found)), "paths that only their owner may read", "chmod a+rX them; install for all users, not --user"
    )


def shared_packages(image: Image) -> str:
    """Check that no Python packages lie in a home folder, where only its owner's Python finds them."""
    found = python_folders(image.tree)
    private = [path for path in found if path.startswith(("/home/", f"{ROOTS_HOME}/"))]
    if private:
        raise NotHeld(f"packages in {named(private)}", "packages for all users", "install without --user")
    return ", ".join(found) or "no Python packages"


def _needed(image: Image) -> Iterator[tuple[str, Entry]]:
    """Iterate over what the application needs, and the folders on the way to it."""
    roots = [*SHARED, *python_folders(image.tree)]
    ways = {posixpath.dirname(root) for root in roots}
    while ways:
        yield from ((path, image.tree.entries[path]) for path in ways if path in image.tree.entries)
        ways = {posixpath.dirname(path) for path in ways if path != "/"}
    for root in roots:
        if root in image.tree.entries:
            yield root, image.tree.entries[root]
        yield from image.tree.below(root)


def no_pip(image: Image) -> str:
    """Check that nothing is there to install Python packages with."""
    return _none(_matching(image, PIP), "pip or its kind", "remove it in the last step of the build")


def no_compiler(image: Image) -> str:
    """Check that no compiler, linker or make is there."""
    return _none(_matching(image, COMPILERS), "compilers", "build wheels elsewhere, or remove the compiler")


def no_leftovers(image: Image) -> str:
    """Check that the build left no configuration, credentials, caches, logs or temporary files."""
    found = [path for path in _matching(image, LEFT) if image.tree.entries[path].kind != "folder"]
    return _none(found, "left by the build", "remove them in the step that makes them")


def no_mount_points(image: Image) -> str:
    """Check that folders the runtime or the build mounts are empty, and no file is an empty mount point."""
    found = [path for folder in EMPTY for path, entry in image.tree.below(folder) if path != "/run/lock"]
    return _none(found, "mount points of the build", "remove them after the build")


def no_secrets(image: Image) -> str:
    """Check that neither environment nor history name a proxy, a package index or a credential."""
    history = image.contents.document.get("history")
    texts = [f"{name}=" for name in image.env]
    texts += [json.dumps(one) for one in history] if isinstance(history, list) else []
    found = sorted({match.group().rstrip("=") for text in texts for match in SECRETS.finditer(text)})
    return _none(found, "of the build's settings in environment or history", "pass them as secrets or mounts")


def _matching(image: Image, pattern: re.Pattern[str]) -> list[str]:
    return [path for path, _ in image.tree.below("/") if pattern.fullmatch(path)]


def _none(found: Iterable[str], what: str, do: str) -> str:
    paths = list(found)
    if paths:
        raise NotHeld(f"{len(paths)} {what}: {named(paths)}", "none", do)
    return "none"


CLAUSES: Final[Mapping[str, Clause[Image]]] = {
    "SAFE_LINKS": links,
    "SAFE_NO_DEVICES": no_devices,
    "SAFE_NO_SETUID": no_setuid,
    "SAFE_NOT_WRITABLE": not_writable,
    "SAFE_ANY_UID": any_uid,
    "SAFE_SHARED_PACKAGES": shared_packages,
    "SAFE_NO_PIP": no_pip,
    "SAFE_NO_COMPILER": no_compiler,
    "SAFE_NO_LEFTOVERS": no_leftovers,
    "SAFE_NO_MOUNT_POINTS": no_mount_points,
    "SAFE_NO_SECRETS": no_secrets,
}
