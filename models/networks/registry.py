"""The networks, each under the name that bundles use."""

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
from models.spec import BundleError, one_line

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
    """Return an architecture's parameters, with defaults where none are given: what a bundle records.

    Raises:
        BundleError: there is no such architecture, or a parameter without a default is missing.
    """
    if architecture not in ARCHITECTURES:
        raise BundleError(f"architecture is {architecture!r}; known are {', '.join(sorted(ARCHITECTURES))}")
    defaults = inspect.signature(ARCHITECTURES[architecture]).parameters
    merged = {name: parameter.default for name, parameter in defaults.items()} | dict(given)
    missing = [name for name, value in merged.items() if value is inspect.Parameter.empty]
    if missing:
        raise BundleError(f"{architecture} needs {', '.join(missing)}, which the bundle does not state")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in merged.items()}


def build_vae(architecture: str, parameters: Mapping[str, Any]) -> Vae:
    """Return the network with this name and these parameters, both of which may come from a file.

    Each value must be of the same kind as its default: whole numbers from 1 to 4096, a positive number, true or false,
    a word, or a list of up to 16 of these. The architecture itself checks a value without a default or with an empty
    one.

    Raises:
        BundleError: a name, a parameter or a value is not known or makes no network.
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
        reason = one_line(error)
        raise BundleError(
            f"{architecture} with these parameters needs a package that is not installed: {reason}"
        ) from error
    except (TypeError, ValueError) as error:
        reason = one_line(error)
        raise BundleError(f"{architecture} cannot be built from {dict(parameters)}: {reason}") from error


def _check(what: str, value: Any, default: Any) -> None:
    """Check that the value is of the same kind as the default."""
    if isinstance(default, tuple):
        if not isinstance(value, (list, tuple)) or not 0 < len(value) <= 16:
            raise BundleError(f"{what} is {value!r}; expected a list of 1 to 16 values")
        for item in value:
            _check(what, item, default[0])
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
