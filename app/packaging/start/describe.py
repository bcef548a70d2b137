"""The verbs of a MAP that say what is in it: show, env, help, extract."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from app.exit_codes import WRITTEN
from app.packaging.layout import APP, APP_JSON, CONFIG, DOCS, EXPORT, MODELS, PKG_JSON, SBOM, below
from app.process import LogLevel, guarded
from operators.errors import StartError

SECRET: Final = re.compile(r"KEY|TOKEN|PASSWORD|SECRET|DATABASE")
HELP: Final = f"""\
A CT study goes in, reproducible VAE features come out, as DICOM SR and JSON. Not for diagnosis.

  (no word)           encode $HOLOSCAN_INPUT_PATH into $HOLOSCAN_OUTPUT_PATH; also -i IN -o OUT -m MODELS -c SETTINGS
  show [app|pkg|sbom] print app.json and pkg.json, one of them, or the bill of materials
  env                 print the environment; secrets are hidden
  extract             copy what is in the image to {EXPORT}: into app, config, models or docs there
                      where such a folder is mounted, else all four
  help                print this
  doctor              reproduce the bundle's golden values on this machine
  listen              receive CT from a PACS or modality; the settings say from whom
  COMMAND --help      every other command of ctvae

Exit code: 0 written, 1 something failed, 2 nothing to write, 3 could not start.
"""


def describe(arguments: list[str], root: Path = Path("/")) -> int:
    """Run one of the verbs.

    Args:
        arguments: the verb and its arguments.
        root: of the image.

    Returns:
        The exit code of the contract.
    """
    verb, *rest = arguments
    return guarded(lambda: VERBS[verb](rest, root), LogLevel.INFO)


def _show(which: list[str], root: Path) -> int:
    places = {"app": APP_JSON, "pkg": PKG_JSON, "sbom": SBOM}
    unknown = [name for name in which if name not in places]
    if unknown:
        raise StartError("USAGE", f"show knows {', '.join(places)}, not {unknown[0]!r}")
    for name in which or ["app", "pkg"]:
        try:
            text = below(root, places[name]).read_text(encoding="utf-8")
        except OSError as error:
            text = f"{error.strerror}: {places[name]}; the container has it, and this is not the container"
            raise StartError("NOT_ACCESSIBLE", text) from error
        title = f"{name}.json".center(12).center(72, "=") + "\n" if len(which) != 1 else ""
        sys.stdout.write(f"{title}{text}")
    return WRITTEN


def _env(_: list[str], root: Path) -> int:
    for line in shown(os.environ):
        sys.stdout.write(f"{line}\n")
    return WRITTEN


def shown(environment: Mapping[str, str]) -> list[str]:
    """Return the environment, sorted; what may be a secret is hidden."""
    return [f"{name}={'(hidden)' if SECRET.search(name) else value}" for name, value in sorted(environment.items())]


def _help(_: list[str], root: Path) -> int:
    sys.stdout.write(HELP)
    return WRITTEN


def _extract(_: list[str], root: Path) -> int:
    target = below(root, EXPORT)
    if not target.is_dir():
        raise StartError("NO_EXPORT", f"no folder is mounted at {EXPORT}; make one and mount it there")
    parts: dict[str, Callable[[Path], None]] = {
        "app": lambda to: _tree(below(root, APP), to),
        "config": lambda to: _files([below(root, file) for file in (CONFIG, APP_JSON, PKG_JSON, SBOM)], to),
        "models": lambda to: _tree(below(root, MODELS), to),
        "docs": lambda to: _tree(below(root, DOCS), to),
    }
    chosen = [name for name in parts if (target / name).is_dir()] or list(parts)
    for name in chosen:
        try:
            parts[name](target / name)
        except FileNotFoundError as error:
            text = f"{error.filename} is not there; the container has it, and this is not the container"
            raise StartError("NOT_ACCESSIBLE", text) from error
        except (OSError, shutil.Error) as error:
            text = f"cannot write into {EXPORT / name}; it must be writable for uid {os.getuid()}"
            raise StartError("OUTPUT_UNWRITABLE", text) from error
        sys.stdout.write(f"{EXPORT / name}\n")
    return WRITTEN


def _tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True, copy_function=shutil.copyfile)


def _files(sources: list[Path], target: Path) -> None:
    target.mkdir(exist_ok=True)
    for source in sources:
        shutil.copyfile(source, target / source.name)


VERBS: Final = {"show": _show, "env": _env, "help": _help, "extract": _extract}
