"""A settings file in YAML → a frozen dataclass; errors are reported with their line, in the words of the file."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from operators.errors import StartError
from operators.system_error import cannot_read

SETTINGS_FILE = Path(__file__).resolve().with_name("app.yaml")
FORBID_UNKNOWN_KEYS = {"extra": "forbid"}  # for pydantic, in the dataclasses that a file is read into
T = TypeVar("T")
# What was expected, for each kind of pydantic error that a file can cause.
EXPECTED = {
    "unexpected_keyword_argument": "unknown key; see the keys in the app.yaml that came with ctvae",
    "missing": "missing; give it a value",
    "missing_argument": "missing; give it a value",
    "dataclass_type": "expected keys with values, such as {key: value}",
    "tuple_type": "expected a list, such as [a, b]",
    "string_type": "expected text",
    "int_type": "expected a whole number, not in quotes",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number, not in quotes",
    "bool_type": "expected true or false",
}


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """A YAML file of sections, as it was read.

    Attributes:
        path: path of the file.
        sections: plain values, by the name of the section.
        root: the same as YAML nodes, which know their lines.
    """

    path: Path
    sections: dict[str, Any]
    root: yaml.Node

    def changed(self, changes: SettingsFile) -> SettingsFile:
        """Return the file with the values of another in place of its own, key by key."""
        merged = dict(self.sections)
        for name, value in changes.sections.items():
            old = merged.get(name)
            merged[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        return replace(self, sections=merged)

    def into(self, settings: type[T], sections: dict[str, Any]) -> T:
        """Check sections strictly against a dataclass: "4" is not a number, an unknown key is an error.

        Raises:
            StartError: `SETTINGS_INVALID`, naming the line and the wrong key or value.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            # As JSON, where a list is a tuple and an object a dataclass even with strict types.
            return TypeAdapter(settings).validate_json(json.dumps(sections, default=str), strict=True)
        except ValidationError as error:
            # Of several readings of one value, the one that got furthest.
            found = max(error.errors(), key=lambda one: (len(one["loc"]), one["type"] == "value_error"))
            raise self.invalid(found["loc"], _text({**found})) from error

    def invalid(self, place: tuple[str | int, ...], text: str) -> StartError:
        """Return the error for a place in the file, named by its line and keys.

        Args:
            place: keys and positions; parts that the file does not have (pydantic names classes and variants) are left
                out.
            text: what was found there and what was expected.
        """
        node, line, named = self.root, self.root.start_mark.line, list[str]()
        for part in place:
            if isinstance(node, yaml.MappingNode):
                child = next(((key, value) for key, value in node.value if key.value == str(part)), None)
                if child is None:
                    continue
                line, node = child[0].start_mark.line, child[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line
            else:
                continue
            named.append(str(part))
        if text.startswith("missing"):
            named.append(str(place[-1]))
        return StartError("SETTINGS_INVALID", f"{self.path}, line {line + 1}: {'.'.join(named)}: {text}")


def plain_settings(path: Path, sections: dict[str, Any]) -> SettingsFile:
    """Return settings that another file holds among other things, such as a router's task."""
    root = yaml.compose(json.dumps(sections))
    assert root is not None  # an empty mapping is a node too
    return SettingsFile(path, sections, root)


def read_settings_file(path: Path) -> SettingsFile:
    """Return a file of sections.

    Raises:
        StartError: `SETTINGS_INVALID`, naming the line where the YAML is wrong or a key is given twice.
    """
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        parsed = loader.construct_document(root) if root else None
        json.dumps(parsed, default=str)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise StartError("SETTINGS_INVALID", f"{path}{where}: {problem or 'expected YAML'}") from error
    except (OSError, ValueError, RecursionError) as error:
        text = cannot_read(str(path), error, "YAML in UTF-8, without references to itself")
        raise StartError("SETTINGS_INVALID", text) from error
    if not isinstance(parsed, dict) or root is None:
        raise StartError("SETTINGS_INVALID", f"{path} holds no sections; see the app.yaml that came with ctvae")
    return SettingsFile(path, parsed, root)


class _Loader(yaml.SafeLoader):
    """YAML that rejects duplicate keys, of which PyYAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _text(found: Mapping[str, Any]) -> str:
    """Return what was found, and what was expected instead."""
    context, kind = found.get("ctx", {}), found["type"]
    if kind == "value_error":
        return str(context["error"])
    expected = f"expected {context['expected']}" if kind == "literal_error" else EXPECTED.get(kind, found["msg"])
    shown = json.dumps(found["input"], default=str)
    plain = isinstance(found["input"], (str, int, float)) and len(shown) <= 40 and expected.startswith("expected")
    return f"found {shown}; {expected}" if plain else expected
