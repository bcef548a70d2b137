"""How to train, from `train.yaml` and the command line: sections `training`, `preprocessing` and `data`.

The keys are the fields of `TrainingSettings`, `Preprocessing` and `DataSettings`; missing ones have their defaults. The
command line overrides the file. A bundle to fine-tune overrides both, and contradicting it is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from models.spec import Bundle, BundleError, Preprocessing
from models.training.settings import TrainingSettings
from operators.errors import StartError
from operators.system_error import cannot_read

DEFAULT_ARCHITECTURE = "ct_vae"
DEFAULT_MINUTES = 20.0

PREPROCESSING: Mapping[str, Preprocessing] = {
    "ct_vae": Preprocessing("window", (32, 96, 96), (4.0, 4.0, 4.0), (-1000.0, 1000.0)),
    "question": Preprocessing("resize", (32, 256, 256), None, (-1000.0, 1000.0)),
}
"""Defaults of each architecture's preprocessing; other architectures get those of `ct_vae`."""


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Which scans to use, and how patients are split.

    Attributes:
        root: folder that a list's paths are relative to, itself relative to the working directory.
        calibration: fraction of the patients whose split no list fixes, above 0, for watching and choosing.
        test: likewise, for measuring.
        reference: likewise; 0 for none, and none are drawn if there would be fewer than nine. They serve only to
            recognise later which scans are unlike them.
        phantoms: number of phantoms to train on beside the scans; the other splits have none.
        seed: seed of the draw of patients and phantoms; it is not the training's, so trainings with several seeds have
            the same splits.
    """

    root: str | None = None
    calibration: float = 0.1
    test: float = 0.2
    reference: float = 0.1
    phantoms: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        parts = f"calibration {self.calibration:g}, test {self.test:g} and reference {self.reference:g}"
        if not (self.calibration > 0 and self.test > 0 and self.reference >= 0):
            text = "calibration and test must be above 0, reference 0 or more"
            raise ValueError(f"{parts}: {text}; without test patients there is no bundle to trust")
        if self.phantoms < 0:
            raise ValueError(f"phantoms is {self.phantoms}; expected 0 or more")
        if not self.calibration + self.test + self.reference < 1:
            raise ValueError(f"{parts} leave nothing to train on")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The content of a recipe file: only the given keys, with the right types.

    Attributes:
        training: keys of `TrainingSettings`.
        preprocessing: keys of `Preprocessing`.
        data: keys of `DataSettings`.
    """

    training: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that defines a training, complete."""

    training: TrainingSettings
    preprocessing: Preprocessing
    data: DataSettings
    start: Bundle | None = None

    def as_yaml(self) -> str:
        """Return a `train.yaml` for exactly this plan."""
        training = {key: value for key, value in asdict(self.training).items() if value is not None}
        data = {key: value for key, value in asdict(self.data).items() if value is not None}
        preprocessing = {key: value for key, value in self.preprocessing.parameters().items() if value is not None}
        plain = json.loads(json.dumps({"training": training, "preprocessing": preprocessing, "data": data}))
        return yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=120)


def load_recipe(path: Path) -> Recipe:
    """Return the recipe in a `train.yaml`.

    Raises:
        StartError: `BAD_RECIPE`: it is not YAML, or has an unknown key or a value of the wrong type.
    """
    try:
        parsed = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - it is a SafeLoader
    except OSError as error:
        raise StartError("BAD_RECIPE", cannot_read(path.name, error, "YAML")) from error
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where, why = f" at line {mark.line + 1}" if mark else "", getattr(error, "problem", None) or "expected YAML"
        raise StartError("BAD_RECIPE", f"cannot read {path.name}{where}: {why}") from error
    return parse_recipe({} if parsed is None else parsed, path.name)


def parse_recipe(parsed: object, name: str = "train.yaml") -> Recipe:
    """Return the recipe from parsed YAML.

    Raises:
        StartError: `BAD_RECIPE`.
    """
    from pydantic import ValidationError

    if isinstance(parsed, Mapping):  # a section whose keys are all commented out is empty
        parsed = {
            key: {} if value is None and key in Recipe.__dataclass_fields__ else value for key, value in parsed.items()
        }
    try:
        as_json = json.dumps(parsed)
        checked = _model().model_validate_json(as_json, strict=True)
    except (TypeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise StartError(
                "BAD_RECIPE", f"{name} holds a value other than text, numbers, lists or sections"
            ) from error
        raise StartError("BAD_RECIPE", f"{name}: {_first_error(error.errors())}") from error
    given = checked.model_dump(exclude_unset=True)
    return Recipe(*(given.get(section, {}) for section in ("training", "preprocessing", "data")))


def make_plan(
    recipe: Recipe, *, training: Mapping[str, Any], data: Mapping[str, Any], start: Bundle | None = None
) -> Plan:
    """Return the plan made of recipe, command line and the bundle to start from.

    Args:
        recipe: from the file.
        training: keys of `TrainingSettings` from the command line; None where one was not given.
        data: likewise for `DataSettings`.
        start: the bundle to fine-tune.

    Raises:
        StartError: `BAD_RECIPE`, or `INIT_CONFLICT` if the bundle contradicts the request.
    """
    settings = dict(recipe.training) | (given := {key: value for key, value in training.items() if value is not None})
    for limit, other in (("minutes", "steps"), ("steps", "minutes")):
        if limit in given and other not in given:
            settings.pop(other, None)
    if settings.get("minutes") is None and settings.get("steps") is None:
        settings["minutes"] = DEFAULT_MINUTES
    try:
        preprocessing = _preprocessing(settings, recipe.preprocessing, start)
        whole = DataSettings(**dict(recipe.data) | {key: value for key, value in data.items() if value is not None})
        settings["parameters"] = _parameters(settings, preprocessing, start)
        return Plan(TrainingSettings(**settings), preprocessing, whole, start)
    except (ValueError, TypeError, BundleError) as error:
        raise StartError("BAD_RECIPE", str(error)) from error


def _preprocessing(settings: dict[str, Any], given: Mapping[str, Any], start: Bundle | None) -> Preprocessing:
    """Return the preprocessing, from the architecture's defaults and the given values; also fixes the architecture."""
    if start is None:
        settings.setdefault("architecture", DEFAULT_ARCHITECTURE)
        default = PREPROCESSING.get(settings["architecture"], PREPROCESSING[DEFAULT_ARCHITECTURE])
        merged = default.parameters() | dict(given)
        if merged["fit"] != default.fit and merged["fit"] == "resize":
            merged["spacing_mm"] = given.get("spacing_mm")
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in merged.items()}
        return Preprocessing(**plain)
    if start.arrays_only:
        raise StartError("INIT_CONFLICT", f"{start.name} has no preprocessing on record; scans cannot be read for it")
    if settings.setdefault("architecture", start.architecture) != start.architecture:
        _conflict("the architecture", start.architecture, settings["architecture"])
    for key, value in given.items():
        have = _plain(getattr(start.preprocessing, key))
        if _plain(value) != have:
            _conflict(f"preprocessing.{key}", have, value)
    return start.preprocessing


def _parameters(settings: Mapping[str, Any], preprocessing: Preprocessing, start: Bundle | None) -> dict[str, Any]:
    """Return the network's parameters; its windows are those of the preprocessing."""
    given = dict(settings.get("parameters", {}))
    wanted = list(preprocessing.window_voxels)
    if _plain(given.setdefault("window_voxels", wanted)) != wanted:
        raise ValueError(f"parameters.window_voxels is {given['window_voxels']}, preprocessing.window_voxels {wanted}")
    if start is None:
        return given
    for key, value in given.items():
        if _plain(value) != _plain(start.architecture_parameters.get(key)):
            _conflict(f"parameters.{key}", start.architecture_parameters.get(key), value)
    return dict(start.architecture_parameters)


def _conflict(what: str, has: object, wanted: object) -> None:
    text = (
        f"{what} of the bundle to start from is {has!r}; {wanted!r} was asked for: take it out, or train from the start"
    )
    raise StartError("INIT_CONFLICT", text)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


@cache
def _model() -> Any:
    """Return pydantic's model of the file. The dataclasses themselves are made once all their values are known."""
    from pydantic import ConfigDict, create_model

    config = ConfigDict(extra="forbid")
    sections = {}
    for name, kind in (("training", TrainingSettings), ("preprocessing", Preprocessing), ("data", DataSettings)):
        hints = get_type_hints(kind)
        keys = {entry.name: (hints[entry.name], None) for entry in fields(kind)}
        sections[name] = (create_model(name, __config__=config, **keys), None)  # type: ignore[call-overload]
    return create_model("train.yaml", __config__=config, **sections)  # type: ignore[call-overload]


def _first_error(errors: list[Any]) -> str:
    """Return the first error, with its key; of several readings of one value, the one that got furthest."""
    found = errors[0]
    where = ".".join(str(part) for part in found["loc"] if part not in ("float", "int", "str")) or "the file"
    if found["type"] == "extra_forbidden":
        *section, key = found["loc"]
        return f"unknown key {'.'.join(map(str, (*section, key)))}; known are {', '.join(_known(section))}"
    return f"{where} is {str(found.get('input'))[:60]!r}: {found['msg'][0].lower()}{found['msg'][1:]}"


def _known(section: list[Any]) -> list[str]:
    model = _model()
    return list(model.model_fields[section[0]].annotation.model_fields if section else model.model_fields)


class _Loader(yaml.SafeLoader):
    """YAML 1.1, with 1e-3 as a number as in YAML 1.2, and duplicate keys as errors."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
