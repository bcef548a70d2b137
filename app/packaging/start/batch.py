"""A batch run of the container: folders and settings as the caller's convention has them, then encode."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app.__main__ import encode_graph, parse
from app.exit_codes import WRITTEN
from app.packaging.start.conventions import MODELS, Folders, folders
from app.process import LogLevel, guarded
from operators.errors import RunFailed, StartError

if TYPE_CHECKING:
    from app.settings_file import SettingsFile

TASK: Final = "task.json"
CHALLENGE_RESULT: Final = "ct-vae-features.json"


def batch(argv: list[str], environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> int:
    """Encode the input once and leave the results as the caller looks for them.

    Args:
        argv: `-i`, `-o`, `-m`, `-c`, `-l`; what is given here goes before every variable.
        environment: of the process.
        root: of the file system, for the folders that are looked for.

    Returns:
        The exit code of the contract.
    """
    arguments = parse(argv)

    def run() -> int:
        from app.settings import check_paths, load_settings

        found = folders(environment, root)
        if arguments.input or arguments.output:
            found = Folders("map", arguments.input or found.source, arguments.output or found.target)
        models = arguments.model or _named(environment.get(MODELS))
        changes = mercure_settings(found.source) if found.convention == "mercure" else None
        settings = load_settings(arguments.config, environment, changes)
        paths = check_paths(found.source, found.target, models, environment)
        code = encode_graph(paths, settings)
        if found.convention == "mercure":
            flatten(paths.output)
        if found.convention == "challenge" and code == WRITTEN:
            one_result(paths.output)
        return code

    return guarded(run, LogLevel(arguments.log_level))


def mercure_settings(folder: Path) -> SettingsFile | None:
    """Return the settings that mercure's module or rule gives, from task.json: sections of app.yaml.

    Raises:
        StartError: `SETTINGS_INVALID`: task.json is not mercure's.
    """
    file = folder / TASK
    if not file.is_file():
        return None
    try:
        task = json.loads(file.read_bytes())
        given = (task.get("process") or {}).get("settings") or {}
    except (OSError, ValueError, AttributeError) as error:
        text = f"{TASK}: expected mercure's task with process.settings ({type(error).__name__})"
        raise StartError("SETTINGS_INVALID", text) from error
    if not isinstance(given, dict):
        raise StartError("SETTINGS_INVALID", f"{TASK}: process.settings: expected sections of app.yaml")
    from app.settings_file import plain_settings

    return plain_settings(file, given) if given else None


def flatten(output: Path) -> None:
    """Copy each DICOM result to the top of the folder, which is all that mercure sends on, as SERIES#FILE.dcm."""
    for file in sorted(output.glob("*/*.dcm")):
        shutil.copyfile(file, output / f"{file.parent.name}#{file.name}")


def one_result(output: Path) -> None:
    """Copy the features of the one case to the place that a Grand Challenge algorithm declares.

    Raises:
        RunFailed: `SEVERAL_CASES`: more than one series was written.
    """
    written = sorted(output.glob("*/features.json"))
    if len(written) != 1:
        text = f"{len(written)} series were written; Grand Challenge expects one case per job; split the archive item"
        raise RunFailed("SEVERAL_CASES", text)
    shutil.copyfile(written[0], output / CHALLENGE_RESULT)


def _named(path: str | None) -> Path | None:
    return Path(path) if path else None
