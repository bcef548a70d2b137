"""An encoder trained in Keras, with its own weights, as an architecture of this project.

A file that says how its layers are connected becomes `keras`, with a tap named after each layer. Weights alone can be
read if their shapes are those of `question`. A ReLU on a head is kept, for the numbers must be those of Keras, and
reported in a warning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.importers.keras.file import KerasFile, read_keras_file
from models.importers.keras.graph import Node, find_heads, on_the_way, parse_graph, shapes_of_inputs
from models.importers.keras.steps import IDENTITIES, Arrays, Operation, Step, operation_of, weights_of
from models.importers.keras.weights_alone import question_from_weights
from models.networks.keras import IMAGE, LOGVAR, MU, VALUES, Shape, build_step
from models.networks.registry import build_vae
from models.networks.vae import Size, Vae
from models.spec import BundleError, one_line

_NO_DEVIATION = Operation("constant", {"value": -1e4})
"""Log-variance of an encoder that has none: sigma = exp(-5000) is 0 in float32."""

_NO_LOGVAR_WARNING = (
    "the encoder has no log-variance: sigma of a window is 0, and that of a series is the spread between its windows"
)


@dataclass(frozen=True, slots=True)
class KerasImport:
    """An encoder from Keras.

    Attributes:
        architecture: `question` or `keras`.
        parameters: parameters of the architecture, plain JSON values.
        weights: tensors by parameter name.
        warnings: what its users must know.
        relu_heads: whether a ReLU clips (mu, log-variance) at 0.
    """

    architecture: str
    parameters: Mapping[str, Any]
    weights: Mapping[str, NDArray[np.float32]]
    warnings: tuple[str, ...]
    relu_heads: tuple[bool, bool]

    def vae(self) -> Vae:
        """Return the encoder, ready to run, in eval mode."""
        with torch.device("meta"):
            vae = build_vae(self.architecture, self.parameters)
        held = {name: torch.from_numpy(np.ascontiguousarray(tensor)) for name, tensor in self.weights.items()}
        try:
            vae.load_state_dict(held, assign=True)
        except RuntimeError as error:
            raise BundleError(f"weights do not fit the layers: {one_line(error)}") from error
        return vae.eval()


def read_keras(
    path: Path,
    *,
    heads: str | None = None,
    mu: str | None = None,
    logvar: str | None = None,
    window_voxels: Size | None = None,
) -> KerasImport:
    """Return a Keras encoder; TensorFlow is not needed, and nothing in the file is executed.

    Args:
        path: `.keras`, `.h5`, or `.weights.h5` of the network `question`.
        heads: `linear` or `relu`: needed for weights alone, which do not tell.
        mu: name of the layer that gives the posterior mean; by default found by name or the sampling layer.
        logvar: the same for the log-variance; `none` for an encoder without one.
        window_voxels: (d, h, w), if the file leaves it open.

    Raises:
        BundleError: a file, a layer or an option cannot be used; the message names it.
    """
    if heads not in (None, "linear", "relu"):
        raise BundleError(f"heads are {heads!r}; expected 'linear' or 'relu'")
    file = read_keras_file(path)
    if file.parts:
        raise BundleError(_subclassed(file))
    if file.config is None:
        parameters, weights, warnings = question_from_weights(file, heads, (mu, logvar), window_voxels)
        return KerasImport("question", parameters, weights, tuple(warnings), (heads == "relu", heads == "relu"))
    graph = parse_graph(file.config)
    ends = find_heads(graph, mu, logvar)
    way = on_the_way(graph.nodes, [end for end in ends if end is not None])
    window, steps = _translate(way, ends, window_voxels, file)
    relu = _cuts(steps, MU), _cuts(steps, LOGVAR)
    if heads is not None and (heads == "relu",) * 2 != relu:
        raise BundleError(f"--heads {heads} contradicts the file, which states its heads itself; leave the option out")
    warnings = [*_precision(way), *([_NO_LOGVAR_WARNING] if ends[1] is None else [])]
    weights = {_key(step, name): array for step in steps for name, array in step.weights.items()}
    parameters = {"window_voxels": list(window), "steps": [step.parameters() for step in steps]}
    return KerasImport("keras", parameters, weights, tuple(warnings), relu)


def _subclassed(file: KerasFile) -> str:
    """Return the message for a model that is a user's own class, whose file does not say how layers are connected."""
    kind = "" if file.config is None else f" of the class {str(file.config.get('class_name'))[:40]!r}"
    parts = ", ".join(part[:40] for part in file.parts[:6])
    encoders = [part for part in file.parts if part.isidentifier() and part.lower().startswith("enc")]
    if encoders:
        then = f"save its encoder alone: vae.{encoders[0][:40]}.save('encoder.keras')"
    else:
        then = "build a Functional model of the same layers, keras.Model(inputs, [z_mean, z_log_var]), and save that"
    return (
        f"the file holds a subclassed model{kind} (its parts: {parts}), which does not say how its layers are joined; "
        f"{then}"
    )


def head_warnings(imported: KerasImport, mu: NDArray[np.float32], inputs: str) -> tuple[str, ...]:
    """Return what a ReLU on the heads does, in words.

    Args:
        imported: the encoder.
        mu: its output, (n, latents).
        inputs: its input, for the sentence: `8 windows of the phantom`.
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
    way: Sequence[Node], ends: tuple[str, str | None], window_voxels: Size | None, file: KerasFile
) -> tuple[Size, list[Step]]:
    """Return the window, and the steps from it to the heads."""
    window, source, steps = _input(way, window_voxels)
    names = {source: steps[-1].name if steps else IMAGE}
    shapes: dict[str, Shape] = {IMAGE: (*window, 1)} | {step.name: window for step in steps}
    for node in way:
        if node.name == source:
            continue
        taken = [names[name] for name in node.inputs]
        if not taken or node.kind == "InputLayer":
            raise BundleError(f"layer {node.name!r} has no known input; expected one input, the window")
        if node.kind in IDENTITIES and node.own:
            names[node.name] = taken[0]
            continue
        given = [shapes[name] for name in taken]
        operation = operation_of(node, given[0])
        name = _tap_name(node.name, shapes)
        try:
            with torch.device("meta"):
                module, shape = build_step(operation.kind, operation.options, given)
        except BundleError as error:
            raise BundleError(f"layer {node.name!r}: {error}") from error
        weights = weights_of(node, operation, given[0], file)
        _fitting(node, module, weights)
        names[node.name], shapes[name] = name, shape
        steps.append(Step(name, operation, tuple(taken), weights))
    return window, _with_heads(steps, names[ends[0]], None if ends[1] is None else names[ends[1]])


def _input(way: Sequence[Node], window_voxels: Size | None) -> tuple[Size, str, list[Step]]:
    """Return the window, the input's name, and a step that removes the channel if Keras' input has none."""
    inputs = list(shapes_of_inputs(way))
    if len(inputs) != 1:
        raise BundleError(f"{len(inputs)} inputs lead to mu and log-variance; expected one, the window")
    node, shape = inputs[0]
    if not isinstance(shape, list) or len(shape) not in (4, 5) or (len(shape) == 5 and shape[4] != 1):
        raise BundleError(f"the input is {repr(shape)[:60]}; expected (batch, d, h, w, 1), one channel, channels last")
    given = window_voxels or (None, None, None)
    lengths = []
    for stated, wanted in zip(shape[1:4], given, strict=True):
        if stated is None and wanted is None:
            raise BundleError(f"the input {shape} leaves the window's size open; give --window-voxels D,H,W")
        if stated is not None and wanted is not None and stated != wanted:
            raise BundleError(f"the input is {shape}, not a window of {window_voxels}; leave --window-voxels out")
        length = wanted if stated is None else stated
        if type(length) is not int or not 1 <= length <= 4096:
            raise BundleError(f"the input is {repr(shape)[:60]}; expected a window of 1 to 4096 voxels along each axis")
        lengths.append(length)
    size = lengths[0], lengths[1], lengths[2]
    if math.prod(size) > VALUES:
        raise BundleError(f"the input is a window of {size}; expected at most {VALUES} voxels")
    bare: list[Step] = []
    if len(shape) == 4:
        bare.append(Step("voxels", Operation("reshape", {"shape": list(size)}), (IMAGE,), {}))
    return size, node.name, bare


def _with_heads(steps: Sequence[Step], mu: str, logvar: str | None) -> list[Step]:
    """Return the steps, with the two heads named `mu` and `logvar`."""
    if mu == logvar or IMAGE in (mu, logvar):
        raise BundleError("mu and log-variance are the same layer; give --mu NAME --logvar NAME")
    called = {mu: MU, logvar: LOGVAR}
    renamed = [
        replace(
            step, name=called.get(step.name, step.name), inputs=tuple(called.get(name, name) for name in step.inputs)
        )
        for step in steps
    ]
    return renamed if logvar is not None else [*renamed, Step(LOGVAR, _NO_DEVIATION, (MU,), {})]


def _fitting(node: Node, module: nn.Module, held: Arrays) -> None:
    expected = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    found = {name: array.shape for name, array in held.items()}
    if found != expected:
        raise BundleError(f"layer {node.name!r} has weights of {found}; expected {expected}; save the model again")


def _tap_name(name: str, taken: Mapping[str, Any]) -> str:
    """Return a name that a bundle allows for a tap and that no other tap has."""
    plain = re.sub(r"[^a-z0-9_]+", "_", name.lower())[:48]
    plain = plain if re.match("[a-z]", plain) else f"layer_{plain}"
    reserved = {IMAGE, MU, LOGVAR, "sigma", *taken}
    candidates = [plain, *(f"{plain}_{number}" for number in range(2, len(reserved) + 3))]
    return next(c for c in candidates if c not in reserved and not hasattr(nn.ModuleDict(), c))


def _key(step: Step, name: str) -> str:
    return f"{step.name}.{name}" if step.name in (MU, LOGVAR) else f"stages.{step.name}.{name}"


def _cuts(steps: Sequence[Step], head: str) -> bool:
    """Return whether the head ends with a ReLU that passes nothing below 0."""
    activation = next(step for step in steps if step.name == head).operation.options.get("activation", {})
    return activation.get("name") == "relu" and not activation.get("negative_slope")


def _precision(way: Sequence[Node]) -> tuple[str, ...]:
    """Return a warning if Keras computes in a precision other than float32."""
    policies = set()
    for node in way:
        dtype = node.config.get("dtype")
        inner = dtype.get("config") if isinstance(dtype, dict) else None
        policies.add(str(inner.get("name") if isinstance(inner, dict) else dtype)[:40])
    others = sorted(policies - {"float32", "None"})
    if not others:
        return ()
    return (f"Keras computes it in {', '.join(others[:3])}, this project in float32: expect differences of that size",)
