"""Weights alone, as Keras saves them in `.weights.h5`: read if their shapes are those of the network `question`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.importers.keras.file import KerasFile
from models.importers.keras.graph import LOGVAR_NAMES, MU_NAMES
from models.importers.keras.steps import Arrays
from models.networks.vae import Size
from models.spec import BundleError

Parameters = dict[str, Any]
Weights = dict[str, NDArray[np.float32]]

QUESTION_WINDOW: Size = (32, 256, 256)
QUESTION_CHANNELS = (16, 32, 64, 32, 16)

_SAVE_WHOLE = "save the encoder as .keras, which says how its layers are joined"


def question_from_weights(
    file: KerasFile, heads: str | None, names: tuple[str | None, str | None], window_voxels: Size | None
) -> tuple[Parameters, Weights, list[str]]:
    """Return parameters, weights and warnings of `question` from a file of weights alone, matched by their shapes.

    Raises:
        BundleError: the shapes are not those of `question`, or an option that shapes cannot tell is missing.
    """
    layers = _layers(file)
    convs = [held for held in layers if held[1].ndim == 5]
    denses = [held for held in layers if held[1].ndim == 2]
    before = [1, *(kernel.shape[4] for _, kernel, _ in convs)]
    good = len(convs) >= 1 and len(denses) == 3 and len(convs) + len(denses) == len(layers)
    good = good and all(kernel.shape[:4] == (2, 2, 2, b) for (_, kernel, _), b in zip(convs, before, strict=False))
    if not good or any(bias.shape != kernel.shape[-1:] for _, kernel, bias in layers):
        shapes = ", ".join(str(kernel.shape) for _, kernel, _ in layers)[:200]
        raise BundleError(f"weights alone, of {shapes}: not the question's network or a sibling of it; {_SAVE_WHOLE}")
    trunk, first, second = denses[0], denses[1], denses[2]
    flat, dense = trunk[1].shape
    if first[1].shape != second[1].shape or first[1].shape[0] != dense or flat % before[-1]:
        raise BundleError(f"weights alone, whose two heads are {first[1].shape} and {second[1].shape}; {_SAVE_WHOLE}")
    if heads is None:
        raise BundleError("weights alone do not tell whether the heads are linear; give --heads linear or --heads relu")
    mu, logvar, warnings = _heads(first, second, names)
    window, guessed = _window(window_voxels, before[1:], flat)
    channels = [int(width) for width in before[1:]]
    weights = [_turned(kernel, bias) for _, kernel, bias in (*convs, trunk, mu, logvar)]
    parameters = _parameters(window, channels, int(dense), int(first[1].shape[1]), heads)
    assumed = (
        "weights alone: activations, padding and poolings are taken to be the question's, for shapes do not tell them"
    )
    return parameters, _weights(weights, len(channels), heads), [assumed, *warnings, *guessed]


def _layers(file: KerasFile) -> list[tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
    """Return (name, kernel, bias) of each layer, in the model's order: convolutions first, as in the model."""
    groups: dict[str, Arrays] = {}
    for path, array in file.arrays.items():
        group, _, name = path.rpartition("/")
        groups.setdefault(group.removesuffix("/vars"), {})[{"0": "kernel", "1": "bias"}.get(name, name)] = array
    if any(set(held) != {"kernel", "bias"} for held in groups.values()) or len(groups) > 32:
        raise BundleError(f"weights alone, not all of them kernel and bias of Conv3D and Dense; {_SAVE_WHOLE}")
    keys = sorted(groups, key=lambda key: (groups[key]["kernel"].ndim != 5, _place(key, file)))
    return [(file.names.get(key) or key.rpartition("/")[2], groups[key]["kernel"], groups[key]["bias"]) for key in keys]


def _place(group: str, file: KerasFile) -> int:
    """Return the position of a layer among those of its kind."""
    outer = group.partition("/")[0]
    if outer in file.order:
        return file.order.index(outer)
    number = re.search(r"_(\d+)$", group)
    return int(number[1]) if number and len(number[1]) < 9 else 0


def _heads(first: Any, second: Any, names: tuple[str | None, str | None]) -> tuple[Any, Any, list[str]]:
    """Return (mu, log-variance, warnings) from the last two layers."""
    if any(names):
        by_name = {first[0]: first, second[0]: second}
        if len(by_name) != 2 or set(names) != set(by_name):
            raise BundleError(f"--mu and --logvar are {names}; the two heads are called {sorted(by_name)}")
        return by_name[str(names[0])], by_name[str(names[1])], []
    plain = [re.sub(r"[^a-z]", "", held[0].lower()) for held in (first, second)]
    if plain[0] in LOGVAR_NAMES and plain[1] in MU_NAMES:
        return second, first, []
    if plain[0] in MU_NAMES and plain[1] in LOGVAR_NAMES:
        return first, second, []
    warning = (
        f"the file does not say which head is mu: {first[0]!r}, the first, is taken for it, {second[0]!r} for the other"
    )
    return first, second, [f"{warning}; give --mu NAME --logvar NAME to be sure"]


def _window(given: Size | None, channels: Sequence[int], flat: int) -> tuple[Size, list[str]]:
    """Return the window's size, which weights do not tell, and a warning if the default of `question` is used."""
    voxels, scale = flat // channels[-1], 2 ** len(channels)
    if given is None:
        if tuple(channels) != QUESTION_CHANNELS or voxels != math.prod(QUESTION_WINDOW) // scale**3:
            raise BundleError(f"weights alone do not tell the window's size ({voxels} places after the last block); "
                              "give --window-voxels D,H,W")  # fmt: skip
        text = "the window is taken to be 32,256,256, as in the question; give --window-voxels D,H,W to be sure"
        return QUESTION_WINDOW, [text]
    if any(size % scale for size in given) or math.prod(given) != voxels * scale**3:
        raise BundleError(f"a window of {given} is not {voxels} places after {len(channels)} halvings; give another")
    return given, []


def _turned(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return (kernel.transpose(4, 3, 0, 1, 2) if kernel.ndim == 5 else kernel.T), bias


def _parameters(window: Size, channels: Sequence[int], dense: int, latents: int, heads: str) -> Parameters:
    return {
        "window_voxels": list(window),
        "channels": list(channels),
        "dense": dense,
        "latents": latents,
        "heads": heads,
        "decoder": False,
    }


def _weights(
    layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], blocks: int, heads: str
) -> dict[str, NDArray[np.float32]]:
    """Return (weight, bias) of each layer under their names in `question`."""
    head = ".0" if heads == "relu" else ""
    places = [*(f"stages.block{number}.0.conv" for number in range(1, blocks + 1)), "stages.dense.1"]
    places += [f"mu{head}", f"logvar{head}"]
    named: dict[str, NDArray[np.float32]] = {}
    for place, (weight, bias) in zip(places, layers, strict=True):
        named |= {f"{place}.weight": weight, f"{place}.bias": bias}
    return named
