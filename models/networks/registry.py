"""The networks, each by its name, as a bundle names them."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from models.networks.autoencoder_kl import autoencoder_kl, autoencoder_kl_maisi
from models.networks.ct_vae import ct_vae
from models.networks.keras import keras_encoder
from models.networks.question import question
from models.networks.vae import Vae
from models.networks.var_autoencoder import var_autoencoder
from models.spec import BundleError

ARCHITECTURES: Mapping[str, Callable[..., Vae]] = {
    "question": question,
    "ct_vae": ct_vae,
    "autoencoder_kl": autoencoder_kl,
    "autoencoder_kl_maisi": autoencoder_kl_maisi,
    "var_autoencoder": var_autoencoder,
    "keras": keras_encoder,
}

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")


def all_parameters(architecture: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """An architecture's parameters, its defaults where none are given: what a bundle records.

    Raises:
        BundleError: no such architecture, or a parameter is missing that has no default.
    """
    if architecture not in ARCHITECTURES:
        raise BundleError(f"architecture is {architecture!r}; known are {', '.join(sorted(ARCHITECTURES))}")
    defaults = inspect.signature(ARCHITECTURES[architecture]).parameters
    merged = {name: parameter.default for name, parameter in defaults.items()} | dict(given)
    missing = [name for name, value in merged.items() if value is inspect.Parameter.empty]
    if missing:
        raise BundleError(f"{architecture} needs {', '.join(missing)}, and the bundle does not say them")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in merged.items()}


def build_vae(architecture: str, parameters: Mapping[str, Any]) -> Vae:
    """The network by its name and parameters, both of which may come from a file.

    Each value is checked to be of the kind of its default: whole numbers from 1 to 4096, a positive number, true or
    false, a word, or a list of up to 16 of these. What has no default, or an empty one, the architecture checks itself.

    Raises:
        BundleError: a name, a parameter or a value that is not known or makes no network.
    """
    parameters = all_parameters(architecture, parameters)
    expected = inspect.signature(ARCHITECTURES[architecture]).parameters
    checked: dict[str, Any] = {}
    for name, value in parameters.items():
        default = expected[name].default if name in expected else value
        if name in expected and default is not inspect.Parameter.empty and default != ():
            _check(f"{architecture} parameter {name}", value, default)
        if name in ("window_voxels", "fold") and not (isinstance(value, (list, tuple)) and len(value) == 3):
            raise BundleError(f"{architecture} parameter {name} is {value!r}; expected three integers")
        checked[name] = tuple(value) if isinstance(value, (list, tuple)) else value
    try:
        return ARCHITECTURES[architecture](**checked)
    except ImportError as error:
        said = " ".join(str(error).split())[:120]
        raise BundleError(f"{architecture} with these parameters needs a package that is not here: {said}") from error
    except (TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise BundleError(f"{architecture} cannot be built from {dict(parameters)}: {said}") from error


def _check(what: str, value: Any, default: Any) -> None:
    """The value is of the kind of the default."""
    if isinstance(default, tuple):
        if not isinstance(value, (list, tuple)) or not 0 < len(value) <= 16:
            raise BundleError(f"{what} is {value!r}; expected a list of 1 to 16 values")
        for one in value:
            _check(what, one, default[0])
        return
    if isinstance(default, bool):
        good, expected = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        least = min(1, default)
        good, expected = type(value) is int and least <= value <= 4096, f"integers from {least} to 4096"
    elif isinstance(default, float):
        good, expected = type(value) in (int, float) and math.isfinite(value) and value > 0, "a positive number"
    else:
        good, expected = isinstance(value, str) and _WORD.fullmatch(value) is not None, "a word"
    if not good:
        raise BundleError(f"{what} is {value!r}; expected {expected}")
