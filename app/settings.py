"""app.yaml, arguments and HOLOSCAN_* → frozen settings of a run; an unknown key is an error.

Besides `app/__main__.py` and `app/cli`, this is the only place that reads the environment.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Final, Literal

from app.process import starting
from app.settings_file import FORBID_UNKNOWN_KEYS, SETTINGS_FILE, SettingsFile, read_settings_file
from operators.errors import StartError
from operators.geometry.policy import NO_REPAIR, GeometryPolicy
from operators.make_record import NOTHING_DISCLOSED, Disclosure
from operators.results.card_kinds import CardFormat
from operators.select_series import EVERY_CT, Selection
from operators.series.sdk_rules import SdkRule, parse_sdk_rules
from operators.sr.codes import SrClass
from operators.system_error import cannot_read

OTHERS_SECTIONS = ("application", "resources", "listener")  # read by the SDK's packager, and by app/pacs/settings.py
RECIPE_SECTIONS = ("training", "preprocessing", "data")  # of a train.yaml, which `ctvae train` reads
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """Section `encode` of app.yaml.

    Attributes:
        model: name of the bundle in the models folder; None if there is only one.
        taps: layers to write beside mu and sigma, such as `block3`, or with another pooling `block3:max`.
        device: `auto` uses a GPU if there is one.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN_KEYS

    model: str | None = None
    taps: tuple[str, ...] = ()
    device: Device = "auto"


@dataclass(frozen=True, slots=True)
class Settings:
    """The sections of app.yaml that a run needs; `OTHERS_SECTIONS` are read elsewhere."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN_KEYS

    encode: EncodeSettings = EncodeSettings()
    privacy: Disclosure = NOTHING_DISCLOSED
    selection: Selection = EVERY_CT
    geometry: GeometryPolicy = NO_REPAIR
    sr: SrClass = "comprehensive_3d"
    card: tuple[CardFormat, ...] = ()
    fhir: bool = False
    parametric_map: bool = False


DEFAULTS: Final = Settings()


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Where a run reads and writes, checked.

    Attributes:
        input: an existing folder, archive or file in a research format.
        output: an existing, writable folder.
        models: a bundle or a folder of bundles; None for the shipped bundle.
    """

    input: Path
    output: Path
    models: Path | None


@starting()
def load_settings(
    path: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    changes: SettingsFile | None = None,
) -> Settings:
    """Return settings from `path`, or HOLOSCAN_CONFIG_PATH, or the app.yaml beside the code, or defaults.

    The site's key comes only from CTVAE_SITE_KEY, never from a file.

    Args:
        path: path of the file.
        environment: environment of the process.
        changes: settings that replace values of the file, such as those that a router gives for one job.

    Raises:
        StartError: `SETTINGS_INVALID`, naming the wrong key or value.
    """
    key = environment.get("CTVAE_SITE_KEY")
    settings = _settings_file(path, environment.get("HOLOSCAN_CONFIG_PATH"), changes)
    return replace(settings, privacy=replace(settings.privacy, site_key=key.encode() if key else None))


def _settings_file(path: Path | None, named: str | None, changes: SettingsFile | None) -> Settings:
    chosen = path or (Path(named) if named else SETTINGS_FILE)
    if path is None and not named and not changes and not chosen.is_file():
        return Settings()
    file = read_settings_file(chosen)
    if changes is None:
        return _checked(file)
    _checked(changes)  # what is wrong with them is said with their own path
    return _checked(file.changed(changes))


def _checked(file: SettingsFile) -> Settings:
    """Check the sections of a run, and `resources`, which the packager reads only when a container starts."""
    _check_resources(file)
    ours = {name: dict(value) if isinstance(value, dict) else value for name, value in file.sections.items()}
    ours = {name: value for name, value in ours.items() if value is not None and name not in OTHERS_SECTIONS}
    for section in ours:
        if section in RECIPE_SECTIONS:
            text = "a training recipe has this section; give the recipe with `ctvae train --recipe`"
            raise file.invalid((section,), text)
    if isinstance(ours.get("privacy"), dict) and "site_key" in ours["privacy"]:
        raise file.invalid(("privacy", "site_key"), "unknown key; the key comes from CTVAE_SITE_KEY")
    rules = ours["selection"].pop("sdk_rules", None) if isinstance(ours.get("selection"), dict) else None
    settings = file.into(Settings, ours)
    if rules is None:
        return settings
    return replace(settings, selection=replace(settings.selection, sdk_rules=_sdk_rules(rules, file.path.parent)))


def _check_resources(file: SettingsFile) -> None:
    given = file.sections.get("resources") or {}
    if not isinstance(given, dict):
        raise file.invalid(("resources",), "expected keys with values, such as {cpu: 2}")
    for key, least in (("cpu", 1), ("gpu", 0)):
        if key in given and (type(given[key]) is not int or given[key] < least):
            found = json.dumps(given[key], default=str)
            raise file.invalid(("resources", key), f"found {found}; expected a whole number from {least} on")
    if "memory" in given and not re.fullmatch(r"[1-9]\d*(Mi|Gi)", str(given["memory"])):
        raise file.invalid(("resources", "memory"), "expected a number of Mi or Gi, such as 2Gi")


def _sdk_rules(given: object, folder: Path) -> tuple[SdkRule, ...]:
    """Return the SDK's rules in the settings, or in the JSON file beside them that the settings name."""
    if not isinstance(given, str):
        return parse_sdk_rules(given)
    try:
        return parse_sdk_rules(json.loads((folder / given).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        text = cannot_read(given, error, "JSON beside the settings")
        raise StartError("SETTINGS_INVALID", f"selection.sdk_rules: {text}") from error


@starting()
def check_paths(
    given_input: Path | None,
    given_output: Path | None,
    given_models: Path | None,
    environment: Mapping[str, str] = os.environ,
) -> RunPaths:
    """Return the paths of a run: as given, or HOLOSCAN_INPUT_PATH, _OUTPUT_PATH, _MODEL_PATH, or `input` and `output`.

    The output folder is created if missing.

    Raises:
        StartError: `INPUT_MISSING`, `INPUT_NOT_A_FOLDER`, `INPUT_AND_OUTPUT_OVERLAP`, `OUTPUT_UNWRITABLE` or
            `MODELS_MISSING`.
    """
    models = given_models or (
        Path(environment["HOLOSCAN_MODEL_PATH"]) if environment.get("HOLOSCAN_MODEL_PATH") else None
    )
    if models is not None and not models.exists():
        raise StartError("MODELS_MISSING", f"no model bundle or folder {models}; give one with -m")
    source = check_input(given_input or Path(environment.get("HOLOSCAN_INPUT_PATH") or "input"))
    target = given_output or Path(environment.get("HOLOSCAN_OUTPUT_PATH") or "output")
    check_apart(source, target)
    check_output(target)
    return RunPaths(source, target, models)


@starting()
def check_input(source: Path) -> Path:
    """Return the input if it is a folder, a ZIP archive, or a file in a research format.

    Raises:
        StartError: `INPUT_MISSING` or `INPUT_NOT_A_FOLDER`.
    """
    from operators.images.read_image import is_image
    from operators.input.archives import is_archive

    if not source.exists():
        raise StartError("INPUT_MISSING", f"no folder {source}; give the folder that holds the CT")
    if not source.is_dir() and not (source.is_file() and (is_archive(source) or is_image(source))):
        expected = "expected the folder that holds the CT, a .zip of it, or a NIfTI, NRRD or MHA file"
        raise StartError("INPUT_NOT_A_FOLDER", f"{source} is another file; {expected}")
    return source


@starting()
def check_apart(source: Path, target: Path) -> None:
    """Check that neither input nor output lies inside the other: results must never be read as input.

    Raises:
        StartError: `INPUT_AND_OUTPUT_OVERLAP`.
    """
    inside, outside = target.resolve(), source.resolve()
    if inside.is_relative_to(outside) or outside.is_relative_to(inside):
        text = f"the input {source} and the output {target} lie one inside the other; give separate folders"
        raise StartError("INPUT_AND_OUTPUT_OVERLAP", text)


def check_output(folder: Path) -> None:
    """Check that the output folder is writable; it is created if missing.

    Raises:
        StartError: `OUTPUT_UNWRITABLE`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        text = f"cannot write into {folder} ({error.strerror}); give a writable folder with -o"
        raise StartError("OUTPUT_UNWRITABLE", text) from error
