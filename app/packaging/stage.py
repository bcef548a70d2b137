"""The folder from which the image is built: tracked files of a checkout, the bundles, and the manifests.

    STAGED/app/__main__.py, app/, operators/, models/    the application: /opt/holoscan/app
    STAGED/models/ct_vae/                                the bundles: /opt/holoscan/models
    STAGED/docs/                                         licence and pages: /opt/holoscan/docs
    STAGED/etc/                                          app.json, pkg.json, command.json: /etc/holoscan
    STAGED/processing-container.json, app.yaml

`STAGED/app` is an application folder of the SDK too: `monai-deploy package STAGED/app` takes it as it is.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app.packaging.libraries import lock_of, lock_pins
from app.packaging.manifests import app_and_pkg, processing_container, xnat_command
from models.bundle.store import DEFAULT_BUNDLE
from operators.errors import StartError

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("app", "operators", "models")
BUNDLES: Final = (DEFAULT_BUNDLE,)
PAGES: Final = ("LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "docs/deploy.md", "docs/codes.md")
START: Final = '''"""Start ctvae as the container was called; `app/packaging/start` knows the ways."""

import sys

from app.packaging.start import main

if __name__ == "__main__":
    sys.exit(main())
'''


@dataclass(frozen=True, slots=True)
class Revision:
    """The commit that an image is built from.

    Attributes:
        commit: its hash; with `-dirty` where tracked files that go into the image differ from it.
        epoch: its time, in seconds since 1970: the image's only time.
        source: URL of the repository; a URN of the commit where the checkout knows no URL.
    """

    commit: str
    epoch: int
    source: str


def revision() -> Revision:
    """Return the commit of this checkout.

    Raises:
        StartError: `NO_CHECKOUT`.
    """
    commit = _git("rev-parse", "HEAD")
    dirty = _git("status", "--porcelain", "--untracked-files=no", "--", *PACKAGES, *PAGES)
    remote = subprocess.run(
        ["git", "config", "remote.origin.url"],  # noqa: S607  whichever git is on the path
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.strip()
    source = remote if remote.startswith("https://") else f"urn:git:{commit}"
    return Revision(commit + ("-dirty" if dirty else ""), int(_git("log", "-1", "--format=%ct")), source)


def stage(folder: Path, image: str) -> Path:
    """Fill an empty folder with everything of the image but the base and the libraries.

    Args:
        folder: does not exist yet.
        image: name with tag, for XNAT's command.

    Returns:
        The folder of the application in it.

    Raises:
        StartError: `NO_CHECKOUT`, or `OUTPUT_IN_THE_WAY`.
    """
    if folder.exists():
        raise StartError("OUTPUT_IN_THE_WAY", f"{folder} exists already; remove it, or name another folder")
    application = folder / "app"
    for name in sources():
        inside = _place(name)
        if inside is not None:
            _copy(ROOT / name, folder / inside)
    (application / "__main__.py").write_text(START, encoding="utf-8")
    # The SDK's packager installs these; without hashes, for it installs more beside them.
    pins = [f"{name}=={version}\n" for name, version in lock_pins(lock_of("cpu")).items()]
    (application / "requirements.txt").write_text("".join(pins), encoding="utf-8")
    _copy(ROOT / "app" / "app.yaml", application / "app.yaml")
    _copy(ROOT / "app" / "app.yaml", folder / "app.yaml")
    for bundle in BUNDLES:  # the code finds the shipped bundle where it always is
        (application / "models" / bundle).symlink_to(Path("..", "..", "models", bundle))
    app, pkg = app_and_pkg(application, ROOT / "app" / "app.yaml", BUNDLES)
    _write(folder / "etc", {"app.json": app, "pkg.json": pkg, "command.json": xnat_command(image)})
    _write(folder, {"processing-container.json": processing_container()})
    return application


def sources() -> list[str]:
    """Return the tracked files that go into the image, by their place in the checkout, sorted.

    Raises:
        StartError: `NO_CHECKOUT`.
    """
    listed = _git("ls-files", "-z", "--", *PACKAGES, *PAGES).split("\0")
    return sorted(name for name in listed if name and (ROOT / name).is_file())


def _place(name: str) -> Path | None:
    """Return where a file of the checkout lies in the staged folder; None where it stays behind."""
    path = Path(name)
    if path.parts[0] == "models" and len(path.parts) > 2 and path.parts[1] in BUNDLES:
        return path
    if path.parts[0] in PACKAGES:
        return Path("app", path)
    return Path("docs", path.name)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o644)


def _write(folder: Path, documents: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _git(*arguments: str) -> str:
    try:
        found = subprocess.run(  # noqa: S603  our own arguments
            ["git", *arguments],  # noqa: S607  whichever git is on the path
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        text = "the image is built from a git checkout of ctvae, and this is none; clone the repository first"
        raise StartError("NO_CHECKOUT", text) from error
    return found.stdout.rstrip("\n")
