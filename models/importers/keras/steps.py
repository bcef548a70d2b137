"""From a layer of a Keras model to an operation of the architecture `keras`, and its weights in torch's order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.importers.keras.file import KerasFile
from models.importers.keras.graph import Node
from models.networks.keras import Shape
from models.spec import BundleError

Arrays = dict[str, NDArray[np.float32]]
Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """What a layer computes: a kind of `models.networks.keras`, with the options it needs."""

    kind: str
    options: Options


@dataclass(frozen=True, slots=True)
class Step:
    """A layer of the encoder: its operation, its inputs, and its weights by their names in the step's module."""

    name: str
    operation: Operation
    inputs: tuple[str, ...]
    weights: Arrays

    def parameters(self) -> dict[str, Any]:
        """Return the step as a parameter of the architecture `keras`, plain JSON values."""
        operation = self.operation
        return {"name": self.name, "kind": operation.kind, "inputs": list(self.inputs), **operation.options}


IDENTITIES = frozenset(
    {
        "Dropout",
        "SpatialDropout3D",
        "AlphaDropout",
        "GaussianDropout",
        "GaussianNoise",
        "ActivityRegularization",
        "Identity",
    }
)
"""Layers that do nothing in inference."""

KNOWN = (
    "Conv3D, Dense, MaxPooling3D, AveragePooling3D, GlobalMaxPooling3D, GlobalAveragePooling3D, BatchNormalization, "
    "LayerNormalization, Flatten, Reshape, ZeroPadding3D, Add, Concatenate, Rescaling, Activation, ReLU, LeakyReLU, "
    "PReLU, ELU, the dropouts"
)

_LINEAR: Options = {"name": "linear"}
_BY_NAME: Mapping[str, Options] = {
    **{name: {"name": name} for name in ("linear", "relu", "selu", "softplus", "softsign", "sigmoid", "tanh", "silu")},
    "exponential": {"name": "exponential"},
    "swish": {"name": "silu"},
    "relu6": {"name": "relu", "max_value": 6.0},
    "leaky_relu": {"name": "relu", "negative_slope": 0.2},
    "elu": {"name": "elu", "alpha": 1.0},
    "gelu": {"name": "gelu", "approximate": False},
}


def operation_of(node: Node, shape: Shape) -> Operation:
    """Return the operation of a layer on an input of this shape, (d, h, w, channels) for a grid.

    Raises:
        BundleError: the layer, or an option of it, is not known.
    """
    make = _OPERATIONS.get(node.kind) if node.own else None
    if node.own and node.kind == "Lambda":
        raise BundleError(
            f"layer {node.name!r} is a Lambda on the way to mu and log-variance, and code from a file is not run; "
            "express it with Keras' own layers, and save again"
        )
    if make is None:
        own = "" if node.own else " from outside Keras"
        raise BundleError(f"layer {node.name!r} is a {node.kind[:60]}{own}, which is not known; known are {KNOWN}")
    if node.config.get("data_format") == "channels_first" and len(shape) == 4:
        raise BundleError(f"layer {node.name!r} has data_format channels_first; expected channels_last, as on a CPU")
    try:
        return make(node.config, shape)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise BundleError(f"layer {node.name!r} has a configuration that makes no sense: {error}"[:200]) from error


def weights_of(node: Node, operation: Operation, shape: Shape, file: KerasFile) -> Arrays:
    """Return the weights of a layer on an input of this shape, by their names in the operation's module.

    Raises:
        BundleError: some are missing or have another shape.
    """
    if operation.kind in ("conv", "dense"):
        return _kernel_and_bias(node, operation, file)
    if operation.kind == "scale":
        return _batch_norm(node, file)
    if operation.kind == "layer_norm":
        return _layer_norm(node, operation, shape, file)
    if operation.kind == "prelu":
        return {"slope": _stored(node, ["alpha"], file)["alpha"]}
    return {}


def _kernel_and_bias(node: Node, operation: Operation, file: KerasFile) -> Arrays:
    bias, conv = operation.options["bias"], operation.kind == "conv"
    held = _stored(node, ["kernel", *(["bias"] if bias else [])], file)
    kernel, module = held["kernel"], "conv" if conv else "linear"
    if kernel.ndim != (5 if conv else 2):
        raise BundleError(f"layer {node.name!r} has a kernel of {kernel.shape}; save the model again")
    turned = kernel.transpose(4, 3, 0, 1, 2) if conv else kernel.T
    return {f"{module}.weight": turned, **({f"{module}.bias": held["bias"]} if bias else {})}


def _batch_norm(node: Node, file: KerasFile) -> Arrays:
    config = node.config
    held = _stored(node, [*_gamma_and_beta(config), "moving_mean", "moving_variance"], file)
    mean, variance = held["moving_mean"], held["moving_variance"].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # values that are not finite are rejected by name
        scale = held.get("gamma", np.ones_like(mean)) / np.sqrt(variance + float(config.get("epsilon", 1e-3)))
    return {"mean": mean, "scale": scale.astype(np.float32), "shift": held.get("beta", np.zeros_like(mean))}


def _layer_norm(node: Node, operation: Operation, shape: Shape, file: KerasFile) -> Arrays:
    held = _stored(node, _gamma_and_beta(node.config), file)
    normalised = tuple(shape[axis - 1] for axis in operation.options["axes"])
    gamma, beta = (np.full(normalised, value, np.float32) for value in (1.0, 0.0))
    return {"scale": held.get("gamma", gamma), "shift": held.get("beta", beta)}


def _gamma_and_beta(config: Options) -> list[str]:
    return [name for name, used in (("gamma", config.get("scale", True)), ("beta", config.get("center", True))) if used]


def _stored(node: Node, names: Sequence[str], file: KerasFile) -> Arrays:
    """Return a layer's weights by Keras' names for them."""
    if file.by_index:
        prefix = f"{node.address}/vars/"
        owner = file.names.get(node.address)
        if owner is not None and owner != node.name.rpartition("/")[2]:
            raise BundleError(
                f"the weights at {node.address} belong to {owner[:60]!r}, not {node.name!r}; save the model again"
            )
        found = {path.removeprefix(prefix): array for path, array in file.arrays.items() if path.startswith(prefix)}
        wanted = {name: found.pop(str(number), None) for number, name in enumerate(names)}
    else:
        outer, _, inner = node.name.partition("/")
        last = (inner or outer).rpartition("/")[2]
        below = {path: array for path, array in file.arrays.items() if path.startswith(f"{outer}/")}
        if inner:
            below = {path: array for path, array in below.items() if f"/{last}/" in path}
        wanted, found = {}, {}
        for path, array in below.items():
            name = path.rpartition("/")[2]
            (found if name in wanted or name not in names else wanted)[name] = array
    kept = {name: array for name, array in wanted.items() if array is not None}
    if found or set(kept) != set(names):
        raise BundleError(
            f"layer {node.name!r} has weights {sorted(kept)}; expected {sorted(names)}; save the model again"
        )
    bad = sorted(name for name, array in kept.items() if not np.isfinite(array).all())
    if bad:
        raise BundleError(f"layer {node.name!r} has NaN or infinity in its {bad[0]}; train again, or get another copy")
    return kept


def activation_of(wanted: Any) -> Options:
    """Return a Keras activation, given by name or as the object that Keras 3 writes.

    Raises:
        ValueError: it is not known.
    """
    if wanted is None:
        return _LINEAR
    if isinstance(wanted, dict):
        config, registered, kind = wanted.get("config"), wanted.get("registered_name"), str(wanted.get("class_name"))
        if kind == "function" and registered in (None, "function", config):
            wanted = config
        elif kind in _ACTIVATION_LAYERS and registered is None and isinstance(config, dict):
            return _ACTIVATION_LAYERS[kind](config)
    if not isinstance(wanted, str) or wanted not in _BY_NAME:
        raise ValueError(f"activation {repr(wanted)[:60]} is not known; known are {', '.join(sorted(_BY_NAME))}")
    return dict(_BY_NAME[wanted])


def _relu(config: Options) -> Options:
    numbers = {key: config.get(key) for key in ("negative_slope", "threshold", "max_value")}
    return {"name": "relu", **{key: float(value) for key, value in numbers.items() if value is not None}}


def _leaky_relu(config: Options) -> Options:
    slope = config["negative_slope"] if "negative_slope" in config else config.get("alpha", 0.3)  # Keras 3, Keras 2
    return {"name": "relu", "negative_slope": float(slope)}


def _elu(config: Options) -> Options:
    return {"name": "elu", "alpha": float(config.get("alpha", 1.0))}


_ACTIVATION_LAYERS: Mapping[str, Callable[[Options], Options]] = {
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "ELU": _elu,
}


def _conv(config: Options, shape: Shape) -> Operation:
    options = {
        "channels": config["filters"],
        "kernel": _triple(config["kernel_size"]),
        "stride": _triple(config.get("strides", 1)),
        "dilation": _triple(config.get("dilation_rate", 1)),
        "groups": config.get("groups", 1),
        "padding": _padding(config),
        "bias": bool(config.get("use_bias", True)),
        "activation": activation_of(config.get("activation")),
    }
    return Operation("conv", options)


def _dense(config: Options, shape: Shape) -> Operation:
    bias, activation = bool(config.get("use_bias", True)), activation_of(config.get("activation"))
    return Operation("dense", {"units": config["units"], "bias": bias, "activation": activation})


def _pool(kind: str) -> Callable[[Options, Shape], Operation]:
    def make(config: Options, shape: Shape) -> Operation:
        kernel = _triple(config.get("pool_size", 2))
        stride = kernel if config.get("strides") is None else _triple(config["strides"])
        return Operation(kind, {"kernel": kernel, "stride": stride, "padding": _padding(config)})

    return make


def _global_pool(kind: str) -> Callable[[Options, Shape], Operation]:
    return lambda config, shape: Operation(kind, {"keepdims": bool(config.get("keepdims", False))})


def _scale(config: Options, shape: Shape) -> Operation:
    axis = config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if axis not in (-1, len(shape)):
        raise ValueError(f"it normalises axis {axis}; expected the last, the channels")
    _epsilon(config)
    return Operation("scale", {})


def _normalise(config: Options, shape: Shape) -> Operation:
    if config.get("rms_scaling"):
        raise ValueError("it has rms_scaling; expected a mean and a variance")
    return Operation("layer_norm", {"axes": _axes(config.get("axis", -1), shape), "epsilon": _epsilon(config)})


def _prelu(config: Options, shape: Shape) -> Operation:
    shared = config.get("shared_axes")
    return Operation("prelu", {"shared_axes": [] if shared is None else _axes(shared, shape)})


def _axes(given: Any, shape: Shape) -> list[int]:
    """Return axes in ascending order, where the batch is 0."""
    axes = given if isinstance(given, list) else [given]
    return sorted({axis + (len(shape) + 1 if axis < 0 else 0) for axis in axes})


def _epsilon(config: Options) -> float:
    epsilon = float(config.get("epsilon", 1e-3))
    if not 0 <= epsilon < 1e3:
        raise ValueError(f"its epsilon is {epsilon}; expected a small positive number")
    return epsilon


def _flatten(config: Options, shape: Shape) -> Operation:
    return Operation("reshape", {"shape": [math.prod(shape)]})


def _reshape(config: Options, shape: Shape) -> Operation:
    wanted = [int(length) for length in config["target_shape"]]
    if wanted.count(-1) == 1:
        known = -int(np.prod(wanted, dtype=object))
        wanted[wanted.index(-1)] = math.prod(shape) // known
    return Operation("reshape", {"shape": wanted})


def _pad(config: Options, shape: Shape) -> Operation:
    wanted = config["padding"]
    pairs = [wanted] * 3 if isinstance(wanted, int) else wanted
    return Operation("pad", {"pads": [[pair, pair] if isinstance(pair, int) else list(pair) for pair in pairs]})


def _add(config: Options, shape: Shape) -> Operation:
    return Operation("add", {})


def _concatenate(config: Options, shape: Shape) -> Operation:
    axis = int(config.get("axis", -1))
    return Operation("concatenate", {"axis": axis if axis > 0 else len(shape) + 1 + axis})


def _activation(config: Options, shape: Shape) -> Operation:
    return Operation("activation", {"activation": activation_of(config.get("activation"))})


def _activation_layer(kind: str) -> Callable[[Options, Shape], Operation]:
    return lambda config, shape: Operation("activation", {"activation": _ACTIVATION_LAYERS[kind](config)})


def _rescaling(config: Options, shape: Shape) -> Operation:
    numbers = {"scale": float(config["scale"]), "offset": float(config.get("offset", 0.0))}
    return Operation("activation", {"activation": {"name": "affine", **numbers}})


def _padding(config: Options) -> str:
    return str(config.get("padding", "valid")).lower()


def _triple(value: Any) -> list[int]:
    return [value] * 3 if isinstance(value, int) else list(value)


_OPERATIONS: Mapping[str, Callable[[Options, Shape], Operation]] = {
    "Conv3D": _conv,
    "Dense": _dense,
    "MaxPooling3D": _pool("max_pool"),
    "AveragePooling3D": _pool("mean_pool"),
    "GlobalMaxPooling3D": _global_pool("global_max_pool"),
    "GlobalAveragePooling3D": _global_pool("global_mean_pool"),
    "BatchNormalization": _scale,
    "LayerNormalization": _normalise,
    "PReLU": _prelu,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "ZeroPadding3D": _pad,
    "Add": _add,
    "Concatenate": _concatenate,
    "Activation": _activation,
    "Rescaling": _rescaling,
    **{kind: _activation_layer(kind) for kind in _ACTIVATION_LAYERS},
}
