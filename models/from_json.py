"""Frozen dataclasses from parsed JSON, checked by their types.

pydantic is not used: every command loads a bundle. This reads a training record in 3 ms; pydantic needs 77 ms for the
schema of that record alone, and 106 ms to be imported (processor time, medians of five).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def from_json(kind: Any, value: object, where: str = "") -> Any:
    """Return a value of a type from JSON: dataclasses from objects, tuples from lists; unknown keys are ignored.

    Args:
        kind: a dataclass, `tuple[...]`, `Mapping[str, ...]`, a union, a literal, a plain type; `object` for any JSON.
        value: a value as `json` returns it.
        where: the path to it, for the message.

    Raises:
        ValueError: it does not have that type; one line that names the path.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _record(kind, value, where)
    if origin in (Union, UnionType):
        return _first_that_fits(arguments, value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise ValueError(f"{where} has {len(value)} values; expected {len(kinds)}")
        return tuple(from_json(kind, part, f"{where}[{at}]") for at, (kind, part) in enumerate(zip(kinds, value)))  # noqa: B905
    if origin is Mapping and isinstance(value, Mapping):
        return {str(key): from_json(arguments[1], part, f"{where}.{key}") for key, part in value.items()}
    if kind in (object, Any) or (origin is Literal and value in arguments) or type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    expected = getattr(kind, "__name__", str(kind)) if origin is None else str(kind).replace("typing.", "")
    raise ValueError(f"{where or 'the record'} is {repr(value)[:60]}; expected {expected}")


def _first_that_fits(kinds: tuple[Any, ...], value: object, where: str) -> Any:
    """Read a union by the first member type that fits; if none fits, raise the message for the first."""
    if value is None and type(None) in kinds:
        return None
    errors = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return from_json(kind, value, where)
            except ValueError as error:
                errors.append(error)
    raise errors[0]


def _record(kind: Any, value: object, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where or 'the record'} is {repr(value)[:60]}; expected an object")
    given = {}
    for entry in fields(kind):
        path = f"{where}.{entry.name}" if where else entry.name
        if entry.name in value:
            given[entry.name] = from_json(_types(kind)[entry.name], value[entry.name], path)
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise ValueError(f"{path} is missing")
    return kind(**given)


@cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
