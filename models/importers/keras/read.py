"""An encoder that was trained in Keras, with its own weights, as an architecture of this project.

The network of the question, whatever its widths, becomes `question`; any other that the bridge knows becomes `keras`.
A ReLU on a head is kept, for the numbers shall be Keras', and said in a warning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.importers.keras.file import KerasFile, read_keras_file
from models.importers.keras.graph import Node, find_heads, on_the_way, parse_graph, shapes_of_inputs
from models.importers.keras.question import as_question, question_from_weights
from models.importers.keras.steps import IDENTITIES, Arrays, Step, step_of, weights_of
from models.networks.keras import IMAGE, LOGVAR, MU, VALUES, Shape, build_step
from models.networks.registry import build_vae
from models.networks.vae import Size, Vae
from models.spec import BundleError


@dataclass(frozen=True, slots=True)
class KerasImport:
    """An encoder from Keras.

    Attributes:
        architecture: `question` or `keras`.
        parameters: of the architecture, plain JSON values.
        weights: by parameter name.
        warnings: what whoever uses it must know.
        relu_heads: whether a ReLU cuts (mu, log-variance) at 0.
    """

    architecture: str
    parameters: Mapping[str, Any]
    weights: Mapping[str, NDArray[np.float32]]
    warnings: tuple[str, ...]
    relu_heads: tuple[bool, bool]

    def vae(self) -> Vae:
        """The encoder, ready to run, in eval mode."""
        with torch.device("meta"):
            vae = build_vae(self.architecture, self.parameters)
        held = {name: torch.from_numpy(np.ascontiguousarray(tensor)) for name, tensor in self.weights.items()}
        try:
            vae.load_state_dict(held, assign=True)
        except RuntimeError as error:
            raise BundleError(f"weights do not fit the layers: {' '.join(str(error).split())[:200]}") from error
        return vae.eval()


def read_keras(
    path: Path,
    *,
    heads: str | None = None,
    mu: str | None = None,
    logvar: str | None = None,
    window_voxels: Size | None = None,
) -> KerasImport:
    """Read a Keras encoder; no TensorFlow, and nothing in the file is executed.

    Args:
        path: `.keras`, `.h5`, or `.weights.h5` of the question's network.
        heads: `linear` or `relu`: needed for weights alone, which do not say it.
        mu: name of the layer that gives the posterior mean; by default it is found by its name or the sampling layer.
        logvar: the same for the log-variance.
        window_voxels: (d, h, w), where the file leaves it open.

    Raises:
        BundleError: a file, a layer or an option that cannot be used, by name.
    """
    if heads not in (None, "linear", "relu"):
        raise BundleError(f"heads are {heads!r}; expected 'linear' or 'relu'")
    file = read_keras_file(path)
    if file.config is None:
        parameters, weights, warnings = question_from_weights(file, heads, (mu, logvar), window_voxels)
        return KerasImport("question", parameters, weights, tuple(warnings), (heads == "relu", heads == "relu"))
    nodes = parse_graph(file.config)
    ends = find_heads(nodes, mu, logvar)
    way = on_the_way(nodes, ends)
    window, steps, arrays = _translate(way, ends, window_voxels, file)
    relu = _cuts(steps, MU), _cuts(steps, LOGVAR)
    if heads is not None and (heads == "relu",) * 2 != relu:
        raise BundleError(f"--heads {heads} contradicts the file, whose heads say it themselves; leave it out")
    found = as_question(window, steps, arrays)
    if found is not None:
        return KerasImport("question", *found, _precision(way), relu)
    weights = {_key(step, name): array for step in steps for name, array in arrays[step["name"]].items()}
    return KerasImport("keras", {"window_voxels": list(window), "steps": steps}, weights, _precision(way), relu)


def head_warnings(imported: KerasImport, mu: NDArray[np.float32], inputs: str) -> tuple[str, ...]:
    """What a ReLU on the heads does, in words.

    Args:
        imported: the encoder.
        mu: what it gives, (n, latents).
        inputs: what it was given, for the sentence: `8 windows of the phantom`.
    """
    warnings = []
    if imported.relu_heads[0]:
        dead = int((mu == 0).all(0).sum())
        warnings.append(
            f"mu has a ReLU, which is kept: no unit can be below 0, and {dead} of {mu.shape[1]} units are 0 for all of "
            f"{inputs} (dead there); a linear head would use the whole space"
        )
    if imported.relu_heads[1]:
        warnings.append(
            "log-variance has a ReLU, which is kept: sigma cannot be below 1, so the posterior is never sharp"
        )
    return tuple(warnings)


def _translate(
    way: Sequence[Node], ends: tuple[str, str], window_voxels: Size | None, file: KerasFile
) -> tuple[Size, list[Step], dict[str, Arrays]]:
    """The window, the steps from it to the heads, and their weights by step."""
    window, source, steps = _input(way, window_voxels)
    names = {source: steps[-1]["name"] if steps else IMAGE}
    shapes: dict[str, Shape] = {IMAGE: (*window, 1)}
    for step in steps:
        shapes[step["name"]] = window
    arrays: dict[str, Arrays] = {step["name"]: {} for step in steps}
    for node in way:
        if node.name == source:
            continue
        taken = [names[name] for name in node.inputs]
        if not taken or node.kind == "InputLayer":
            raise BundleError(f"layer {node.name!r} takes no input that is known; expected one input, the window")
        if node.kind in IDENTITIES and node.own:
            names[node.name] = taken[0]
            continue
        options = step_of(node, len(shapes[taken[0]]), math.prod(shapes[taken[0]]))
        name = _tap_name(node.name, shapes)
        try:
            with torch.device("meta"):
                module, shape = build_step(options["kind"], options, [shapes[one] for one in taken])
        except BundleError as error:
            raise BundleError(f"layer {node.name!r}: {error}") from error
        held = weights_of(node, options, file)
        _fitting(node, module, held)
        names[node.name], shapes[name], arrays[name] = name, shape, held
        steps.append({"name": name, "kind": options.pop("kind"), "inputs": taken, **options})
    return window, *_with_heads(steps, arrays, (names[ends[0]], names[ends[1]]))


def _input(way: Sequence[Node], window_voxels: Size | None) -> tuple[Size, str, list[Step]]:
    """The window, the name of the input, and a step that takes the channel away where Keras' input has none."""
    inputs = list(shapes_of_inputs(way))
    if len(inputs) != 1:
        raise BundleError(f"{len(inputs)} inputs lead to mu and log-variance; expected one, the window")
    node, shape = inputs[0]
    if not isinstance(shape, list) or len(shape) not in (4, 5) or (len(shape) == 5 and shape[4] != 1):
        raise BundleError(f"the input is {repr(shape)[:60]}; expected (batch, d, h, w, 1), one channel, channels last")
    given = window_voxels or (None, None, None)
    lengths = []
    for said, wanted in zip(shape[1:4], given, strict=True):
        if said is None and wanted is None:
            raise BundleError(f"the input {shape} leaves the window's size open; say --window-voxels D,H,W")
        if said is not None and wanted is not None and said != wanted:
            raise BundleError(f"the input is {shape}, not a window of {window_voxels}; leave --window-voxels out")
        length = wanted if said is None else said
        if type(length) is not int or not 1 <= length <= 4096:
            raise BundleError(f"the input is {repr(shape)[:60]}; expected a window of 1 to 4096 voxels along each axis")
        lengths.append(length)
    size = lengths[0], lengths[1], lengths[2]
    if math.prod(size) > VALUES:
        raise BundleError(f"the input is a window of {size}; expected at most {VALUES} voxels")
    bare: list[Step] = []
    if len(shape) == 4:
        bare.append({"name": "voxels", "kind": "reshape", "inputs": [IMAGE], "shape": list(size)})
    return size, node.name, bare


def _with_heads(
    steps: list[Step], arrays: dict[str, Arrays], heads: tuple[str, str]
) -> tuple[list[Step], dict[str, Arrays]]:
    """The steps, with the two heads called `mu` and `logvar`."""
    if heads[0] == heads[1] or IMAGE in heads:
        raise BundleError("mu and log-variance are one and the same layer; say --mu NAME --logvar NAME")
    called = {heads[0]: MU, heads[1]: LOGVAR}
    renamed = [
        {**step, "name": called.get(step["name"], step["name"]), "inputs": [called.get(i, i) for i in step["inputs"]]}
        for step in steps
    ]
    return renamed, {called.get(name, name): held for name, held in arrays.items()}


def _fitting(node: Node, module: nn.Module, held: Arrays) -> None:
    expected = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    found = {name: array.shape for name, array in held.items()}
    if found != expected:
        raise BundleError(f"layer {node.name!r} has weights of {found}; expected {expected}; save the model again")


def _tap_name(name: str, taken: Mapping[str, Any]) -> str:
    """A name that a bundle allows a tap, and that no other has."""
    plain = re.sub(r"[^a-z0-9_]+", "_", name.lower())[:48]
    plain = plain if re.match("[a-z]", plain) else f"layer_{plain}"
    reserved = {IMAGE, MU, LOGVAR, "sigma", *taken}
    candidates = [plain, *(f"{plain}_{number}" for number in range(2, len(reserved) + 3))]
    return next(c for c in candidates if c not in reserved and not hasattr(nn.ModuleDict(), c))


def _key(step: Step, name: str) -> str:
    return f"{step['name']}.{name}" if step["name"] in (MU, LOGVAR) else f"stages.{step['name']}.{name}"


def _cuts(steps: Sequence[Step], head: str) -> bool:
    """The head ends with a ReLU that lets nothing below 0 through."""
    activation = next(step for step in steps if step["name"] == head).get("activation", {})
    return activation.get("name") == "relu" and not activation.get("negative_slope")


def _precision(way: Sequence[Node]) -> tuple[str, ...]:
    """A warning where Keras computes in another precision than ours, float32."""
    policies = set()
    for node in way:
        dtype = node.config.get("dtype")
        inner = dtype.get("config") if isinstance(dtype, dict) else None
        policies.add(str(inner.get("name") if isinstance(inner, dict) else dtype)[:40])
    others = sorted(policies - {"float32", "None"})
    if not others:
        return ()
    return (f"Keras computes it in {', '.join(others[:3])}, this project in float32: expect differences of that size",)
