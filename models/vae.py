"""The networks, each by its name, as a bundle names them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from models.bundle import BundleError
from models.network import Vae
from models.networks import ct_vae, question

ARCHITECTURES: Mapping[str, Callable[..., Vae]] = {"question": question, "ct_vae": ct_vae}


def all_parameters(architecture: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """An architecture's parameters, its defaults where none are given: what a bundle records.

    Raises:
        BundleError: no such architecture.
    """
    if architecture not in ARCHITECTURES:
        raise BundleError(f"architecture is {architecture!r}; known are {', '.join(sorted(ARCHITECTURES))}")
    defaults = inspect.signature(ARCHITECTURES[architecture]).parameters
    merged = {name: parameter.default for name, parameter in defaults.items()} | dict(given)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in merged.items()}


def build_vae(architecture: str, parameters: Mapping[str, Any]) -> Vae:
    """The network by its name and parameters, both of which may come from a file.

    Raises:
        BundleError: a name, a parameter or a value that is not known or makes no network.
    """
    parameters = all_parameters(architecture, parameters)
    checked: dict[str, Any] = {}
    for name, value in parameters.items():
        numbers = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        good = 0 < len(numbers) <= 16 and all(type(number) is int and 1 <= number <= 4096 for number in numbers)
        if not good or (name in ("window_voxels", "fold") and len(numbers) != 3):
            raise BundleError(f"{architecture} parameter {name} is {value!r}; expected integers from 1 to 4096")
        checked[name] = numbers if isinstance(value, (list, tuple)) else value
    try:
        return ARCHITECTURES[architecture](**checked)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{architecture} cannot be built from {dict(parameters)}: {error}") from error
