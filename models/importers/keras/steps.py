"""A layer of a Keras model → a step of the architecture `keras`, and its weights in torch's order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.importers.keras.file import KerasFile
from models.importers.keras.graph import Node
from models.spec import BundleError

Arrays = dict[str, NDArray[np.float32]]
Step = dict[str, Any]

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
    "Flatten, Reshape, ZeroPadding3D, Add, Concatenate, Rescaling, Activation, ReLU, LeakyReLU, ELU, the dropouts"
)

_LINEAR: Step = {"name": "linear"}
_BY_NAME: Mapping[str, Step] = {
    **{name: {"name": name} for name in ("linear", "relu", "selu", "softplus", "softsign", "sigmoid", "tanh", "silu")},
    "exponential": {"name": "exponential"},
    "swish": {"name": "silu"},
    "relu6": {"name": "relu", "max_value": 6.0},
    "leaky_relu": {"name": "relu", "negative_slope": 0.2},
    "elu": {"name": "elu", "alpha": 1.0},
    "gelu": {"name": "gelu", "approximate": False},
}


def step_of(node: Node, rank: int, values: int) -> Step:
    """The step of a layer, without `name` and `inputs`.

    Args:
        node: the layer.
        rank: of what it is given, without the batch: 4 for a grid.
        values: how many values it is given.

    Raises:
        BundleError: a layer that is not known, or an option of it that is not.
    """
    make = _STEPS.get(node.kind) if node.own else None
    if node.own and node.kind == "Lambda":
        raise BundleError(
            f"layer {node.name!r} is a Lambda on the way to mu and log-variance, and code from a file is not run; "
            "say it with Keras' own layers, and save again"
        )
    if make is None:
        own = "" if node.own else " of somebody's own"
        raise BundleError(f"layer {node.name!r} is a {node.kind[:60]}{own}, which is not known; known are {KNOWN}")
    if node.config.get("data_format") == "channels_first" and rank == 4:
        raise BundleError(f"layer {node.name!r} has data_format channels_first; expected channels_last, as on a CPU")
    try:
        return make(node.config, rank, values)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise BundleError(f"layer {node.name!r} has a configuration that makes no sense: {error}"[:200]) from error


def weights_of(node: Node, step: Step, file: KerasFile) -> Arrays:
    """The weights of a layer, by their names in the step's module.

    Raises:
        BundleError: some are missing, or have another shape.
    """
    config = node.config
    if node.kind in ("Conv3D", "Dense"):
        held = _stored(node, ["kernel", *(["bias"] if step["bias"] else [])], file)
        kernel, module = held["kernel"], "conv" if node.kind == "Conv3D" else "linear"
        if kernel.ndim != (5 if node.kind == "Conv3D" else 2):
            raise BundleError(f"layer {node.name!r} has a kernel of {kernel.shape}; save the model again")
        turned = kernel.transpose(4, 3, 0, 1, 2) if kernel.ndim == 5 else kernel.T
        return {f"{module}.weight": turned, **({f"{module}.bias": held["bias"]} if step["bias"] else {})}
    if node.kind != "BatchNormalization":
        return {}
    named = [
        name for name, used in (("gamma", config.get("scale", True)), ("beta", config.get("center", True))) if used
    ]
    held = _stored(node, [*named, "moving_mean", "moving_variance"], file)
    mean, variance = held["moving_mean"], held["moving_variance"].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # what is not finite is refused with its name
        scale = held.get("gamma", np.ones_like(mean)) / np.sqrt(variance + float(config.get("epsilon", 1e-3)))
    return {"mean": mean, "scale": scale.astype(np.float32), "shift": held.get("beta", np.zeros_like(mean))}


def _stored(node: Node, names: Sequence[str], file: KerasFile) -> Arrays:
    """A layer's weights by Keras' names for them."""
    if file.by_index:
        prefix = f"{node.address}/vars/"
        told = file.names.get(node.address)
        if told is not None and told != node.name.rpartition("/")[2]:
            raise BundleError(
                f"the weights at {node.address} are of {told[:60]!r}, not {node.name!r}; save the model again"
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


def activation_of(wanted: Any) -> Step:
    """A Keras activation, by name or as the object that Keras 3 writes.

    Raises:
        ValueError: not known.
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


def _relu(config: Mapping[str, Any]) -> Step:
    numbers = {key: config.get(key) for key in ("negative_slope", "threshold", "max_value")}
    return {"name": "relu", **{key: float(value) for key, value in numbers.items() if value is not None}}


def _leaky_relu(config: Mapping[str, Any]) -> Step:
    slope = config["negative_slope"] if "negative_slope" in config else config.get("alpha", 0.3)  # Keras 3, Keras 2
    return {"name": "relu", "negative_slope": float(slope)}


def _elu(config: Mapping[str, Any]) -> Step:
    return {"name": "elu", "alpha": float(config.get("alpha", 1.0))}


_ACTIVATION_LAYERS: Mapping[str, Callable[[Mapping[str, Any]], Step]] = {
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "ELU": _elu,
}


def _conv(config: Mapping[str, Any], rank: int, values: int) -> Step:
    return {
        "kind": "conv",
        "channels": config["filters"],
        "kernel": _triple(config["kernel_size"]),
        "stride": _triple(config.get("strides", 1)),
        "dilation": _triple(config.get("dilation_rate", 1)),
        "groups": config.get("groups", 1),
        "padding": _padding(config),
        "bias": bool(config.get("use_bias", True)),
        "activation": activation_of(config.get("activation")),
    }


def _dense(config: Mapping[str, Any], rank: int, values: int) -> Step:
    bias = bool(config.get("use_bias", True))
    return {
        "kind": "dense",
        "units": config["units"],
        "bias": bias,
        "activation": activation_of(config.get("activation")),
    }


def _pool(kind: str) -> Callable[[Mapping[str, Any], int, int], Step]:
    def make(config: Mapping[str, Any], rank: int, values: int) -> Step:
        kernel = _triple(config.get("pool_size", 2))
        stride = kernel if config.get("strides") is None else _triple(config["strides"])
        return {"kind": kind, "kernel": kernel, "stride": stride, "padding": _padding(config)}

    return make


def _global_pool(kind: str) -> Callable[[Mapping[str, Any], int, int], Step]:
    return lambda config, rank, values: {"kind": kind, "keepdims": bool(config.get("keepdims", False))}


def _scale(config: Mapping[str, Any], rank: int, values: int) -> Step:
    axis = config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if axis not in (-1, rank):
        raise ValueError(f"it normalises axis {axis}; expected the last, the channels")
    if not 0 <= float(config.get("epsilon", 1e-3)) < 1e3:
        raise ValueError(f"its epsilon is {config['epsilon']}; expected a small positive number")
    return {"kind": "scale"}


def _flatten(config: Mapping[str, Any], rank: int, values: int) -> Step:
    return {"kind": "reshape", "shape": [values]}


def _reshape(config: Mapping[str, Any], rank: int, values: int) -> Step:
    shape = [int(length) for length in config["target_shape"]]
    if shape.count(-1) == 1:
        known = -int(np.prod(shape, dtype=object))
        shape[shape.index(-1)] = values // known
    return {"kind": "reshape", "shape": shape}


def _pad(config: Mapping[str, Any], rank: int, values: int) -> Step:
    wanted = config["padding"]
    pairs = [wanted] * 3 if isinstance(wanted, int) else wanted
    return {"kind": "pad", "pads": [[pair, pair] if isinstance(pair, int) else list(pair) for pair in pairs]}


def _add(config: Mapping[str, Any], rank: int, values: int) -> Step:
    return {"kind": "add"}


def _concatenate(config: Mapping[str, Any], rank: int, values: int) -> Step:
    axis = int(config.get("axis", -1))
    return {"kind": "concatenate", "axis": axis if axis > 0 else rank + 1 + axis}


def _activation(config: Mapping[str, Any], rank: int, values: int) -> Step:
    return {"kind": "activation", "activation": activation_of(config.get("activation"))}


def _activation_layer(kind: str) -> Callable[[Mapping[str, Any], int, int], Step]:
    return lambda config, rank, values: {"kind": "activation", "activation": _ACTIVATION_LAYERS[kind](config)}


def _rescaling(config: Mapping[str, Any], rank: int, values: int) -> Step:
    numbers = {"scale": float(config["scale"]), "offset": float(config.get("offset", 0.0))}
    return {"kind": "activation", "activation": {"name": "affine", **numbers}}


def _padding(config: Mapping[str, Any]) -> str:
    return str(config.get("padding", "valid")).lower()


def _triple(value: Any) -> list[int]:
    return [value] * 3 if isinstance(value, int) else list(value)


_STEPS: Mapping[str, Callable[[Mapping[str, Any], int, int], Step]] = {
    "Conv3D": _conv,
    "Dense": _dense,
    "MaxPooling3D": _pool("max_pool"),
    "AveragePooling3D": _pool("mean_pool"),
    "GlobalMaxPooling3D": _global_pool("global_max_pool"),
    "GlobalAveragePooling3D": _global_pool("global_mean_pool"),
    "BatchNormalization": _scale,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "ZeroPadding3D": _pad,
    "Add": _add,
    "Concatenate": _concatenate,
    "Activation": _activation,
    "Rescaling": _rescaling,
    **{kind: _activation_layer(kind) for kind in _ACTIVATION_LAYERS},
}
