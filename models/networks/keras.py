"""The architecture `keras`: an encoder from Keras, layer by layer, as the importer wrote it into the bundle.

Its parameters are the window's size and the steps, each a JSON object: `name`, `kind`, `inputs` (names of earlier
steps, or `image`) and what the kind needs. The steps named `mu` and `logvar` are the heads. All of it is checked here,
for a bundle comes from a file. Shapes are Keras', without the batch: (d, h, w, channels) for a grid.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.networks import keras_layers as layers
from models.networks.keras_layers import ACTIVATIONS, NO_PADS, Activation, Pads, same_pads
from models.networks.vae import Layer, Size, Vae
from models.spec import BundleError

Shape = tuple[int, ...]

IMAGE, MU, LOGVAR = "image", "mu", "logvar"

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_STEPS = 500
VALUES = 1 << 27
"""Limit for the values of one layer's output or weights."""
_OPTIONS: Mapping[str, frozenset[str]] = {
    "conv": frozenset({"channels", "kernel", "stride", "dilation", "groups", "padding", "bias", "activation"}),
    "dense": frozenset({"units", "bias", "activation"}),
    "max_pool": frozenset({"kernel", "stride", "padding"}),
    "mean_pool": frozenset({"kernel", "stride", "padding"}),
    "global_max_pool": frozenset({"keepdims"}),
    "global_mean_pool": frozenset({"keepdims"}),
    "scale": frozenset(),
    "layer_norm": frozenset({"axes", "epsilon"}),
    "prelu": frozenset({"shared_axes"}),
    "constant": frozenset({"value"}),
    "reshape": frozenset({"shape"}),
    "activation": frozenset({"activation"}),
    "pad": frozenset({"pads"}),
    "add": frozenset(),
    "concatenate": frozenset({"axis"}),
}
_GRID_ONLY = frozenset({"conv", "max_pool", "mean_pool", "global_max_pool", "global_mean_pool", "pad"})


class KerasEncoder(Vae):
    """A graph of Keras' layers with two heads; every step that gives a vector or a grid is a tap. It has no decoder."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        inputs: Mapping[str, Sequence[str]],
        taps: Sequence[str],
        *,
        fields: Mapping[str, Size],
        window_voxels: Size,
    ) -> None:
        stages = {name: module for name, module in modules.items() if name not in (MU, LOGVAR)}
        heads = modules[MU], modules[LOGVAR]
        super().__init__(stages, heads, None, layers=_as_one_row(fields), window_voxels=window_voxels)
        self.inputs = {name: tuple(taken) for name, taken in inputs.items()}
        self._taps = tuple(taps)

    @property
    def tap_names(self) -> tuple[str, ...]:
        """See `Vae`."""
        return (MU, "sigma", *self._taps)

    def trunk(self, x: Tensor) -> Tensor:
        """Raise an error: each head of a graph reads what it names, and without a decoder nothing is trained.

        Raises:
            BundleError: always.
        """
        raise BundleError("an imported Keras encoder has no trunk that both heads read; it cannot be trained")

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Vae`."""
        found = self._all(x)
        return found[MU], found[LOGVAR]

    def taps(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """See `Vae`."""
        found = self._all(x)
        found["sigma"] = torch.exp(0.5 * found[LOGVAR])
        return {name: found[name] for name in names}

    def _all(self, x: Tensor) -> dict[str, Tensor]:
        found = {IMAGE: x}
        heads = {MU: self.mu, LOGVAR: self.logvar}
        for name, taken in self.inputs.items():
            module = heads[name] if name in heads else self.stages[name]
            found[name] = module(*(found[source] for source in taken))
        return found


def keras_encoder(*, window_voxels: Sequence[int], steps: Sequence[Any]) -> Vae:
    """Return the encoder that these steps describe; its weights are not loaded yet.

    Raises:
        BundleError: a step is not known, does not fit those before it, or is too large.
    """
    window = _three(window_voxels, "window_voxels")
    if not isinstance(steps, (list, tuple)) or not 0 < len(steps) <= _STEPS:
        raise BundleError(f"keras steps are {_short(steps)}; expected a list of 1 to {_STEPS}")
    shapes: dict[str, Shape] = {IMAGE: (*window, 1)}
    seen: dict[str, tuple[Size, Size]] = {IMAGE: ((1, 1, 1), (1, 1, 1))}
    modules: dict[str, nn.Module] = {}
    inputs: dict[str, tuple[str, ...]] = {}
    for step in steps:
        name, kind, taken, options = _checked(step, shapes)
        given = [shapes[source] for source in taken]
        try:
            modules[name], shapes[name] = build_step(kind, options, given)
        except BundleError as error:
            raise BundleError(f"layer {name}: {error}") from error
        if math.prod(shapes[name]) > VALUES or sum(p.numel() for p in modules[name].parameters()) > VALUES:
            raise BundleError(f"layer {name} gives {shapes[name]}; expected at most {VALUES} values and weights")
        inputs[name] = taken
        if all(source in seen for source in taken):
            field = _field(kind, options, [seen[source] for source in taken], len(shapes[name]))
            seen |= {} if field is None else {name: field}
    if len(shapes.get(MU, ())) != 1 or shapes.get(LOGVAR) != shapes[MU]:
        raise BundleError(f"mu is {shapes.get(MU)}, logvar {shapes.get(LOGVAR)}; expected two vectors of one length")
    taps = [name for name in modules if name not in (MU, LOGVAR) and len(shapes[name]) in (1, 4)]
    fields = {name: seen[name][0] for name in taps if name in seen}
    return KerasEncoder(modules, inputs, taps, fields=fields, window_voxels=window)


def _checked(step: Any, shapes: Mapping[str, Shape]) -> tuple[str, str, tuple[str, ...], Mapping[str, Any]]:
    """Return a step's name, kind, inputs and options."""
    if not isinstance(step, dict):
        raise BundleError(f"a keras step is {_short(step)}; expected an object with name, kind and inputs")
    name, kind, inputs = step.get("name"), step.get("kind"), step.get("inputs")
    usable = isinstance(name, str) and _NAME.fullmatch(name) and not hasattr(nn.ModuleDict(), name)
    if not usable or name in shapes or name == "sigma":
        raise BundleError(f"a keras step is named {_short(name)}; expected a unique name of the form {_NAME.pattern}")
    if not isinstance(kind, str) or kind not in _OPTIONS:
        raise BundleError(f"layer {name} is of kind {_short(kind)}; known are {', '.join(sorted(_OPTIONS))}")
    options = {key: value for key, value in step.items() if key not in ("name", "kind", "inputs")}
    if set(options) != _OPTIONS[kind]:
        raise BundleError(f"layer {name} has {sorted(options)[:9]}; a {kind} needs {sorted(_OPTIONS[kind])}")
    single = kind not in ("add", "concatenate")
    known = isinstance(inputs, list) and all(isinstance(source, str) and source in shapes for source in inputs)
    if not known or not inputs or (single and len(inputs) != 1) or len(inputs) > 64:
        raise BundleError(
            f"layer {name} takes {_short(inputs)}; expected {'one step' if single else 'steps'} before it"
        )
    return str(name), kind, tuple(inputs), options


def build_step(kind: str, options: Mapping[str, Any], given: Sequence[Shape]) -> tuple[nn.Module, Shape]:
    """Return the module of one step, and the shape of its output.

    Raises:
        BundleError: it cannot be built from these, or not on what it is given.
    """
    shape = given[0]
    if kind in _GRID_ONLY and len(shape) != 4:
        raise BundleError(f"{kind} is given {shape}; expected a grid (d, h, w, channels)")
    if kind == "conv":
        return _conv(options, shape)
    if kind == "dense":
        units, activation = _whole(options, "units", 1), _activation(options)
        _affordable(shape[-1] * units)
        linear = nn.Linear(shape[-1], units, bias=_flag(options, "bias"))
        return layers.Linear(linear, activation), (*shape[:-1], units)
    if kind in ("max_pool", "mean_pool"):
        kernel, stride = _three(options["kernel"], "kernel"), _three(options["stride"], "stride")
        pads, size = _placed(options, shape, kernel, stride)
        return layers.Pool(kind == "mean_pool", kernel, stride, pads), (*size, shape[3])
    if kind in ("global_max_pool", "global_mean_pool"):
        keep = _flag(options, "keepdims")
        return layers.GlobalPool(kind == "global_mean_pool", keep), (1, 1, 1, shape[3]) if keep else shape[3:]
    if kind == "scale":
        return layers.Scale(shape[-1]), shape
    if kind == "layer_norm":
        axes, epsilon = _axes(options["axes"], shape, least=1), _number(options, "epsilon")
        if epsilon < 0:
            raise BundleError(f"epsilon is {epsilon:g}; expected 0 or more")
        _affordable(math.prod(shape[axis - 1] for axis in axes))
        return layers.LayerNorm(shape, axes, epsilon), shape
    if kind == "prelu":
        _affordable(math.prod(shape))
        return layers.Prelu(shape, _axes(options["shared_axes"], shape, least=0)), shape
    if kind == "constant":
        return layers.Constant(_number(options, "value")), shape
    if kind == "reshape":
        return _reshape(options["shape"], shape)
    if kind == "activation":
        return _activation(options), shape
    if kind == "pad":
        return _pad(options["pads"], shape)
    return _merged(kind, options, given)


def _conv(options: Mapping[str, Any], shape: Shape) -> tuple[nn.Module, Shape]:
    channels, groups = _whole(options, "channels", 1), _whole(options, "groups", 1)
    kernel, stride, dilation = (_three(options[key], key) for key in ("kernel", "stride", "dilation"))
    wide = tuple((width - 1) * step + 1 for width, step in zip(kernel, dilation, strict=True))
    pads, size = _placed(options, shape, (wide[0], wide[1], wide[2]), stride)
    if shape[3] % groups or channels % groups:
        raise BundleError(f"{groups} groups of {shape[3]} and {channels} channels; expected a divisor of both")
    _affordable(math.prod(kernel) * channels * shape[3] // groups)
    even = all(before == after for before, after in pads)
    inside = (pads[0][0], pads[1][0], pads[2][0]) if even else (0, 0, 0)  # without a copy of the input
    bias = _flag(options, "bias")
    conv = nn.Conv3d(shape[3], channels, kernel, stride, inside, dilation=dilation, groups=groups, bias=bias)
    return layers.Convolution(conv, NO_PADS if even else pads, _activation(options)), (*size, channels)


def _placed(options: Mapping[str, Any], shape: Shape, kernel: Size, stride: Size) -> tuple[Pads, Size]:
    """Return the padding, and the size of the resulting grid."""
    grid, padding = (shape[0], shape[1], shape[2]), options["padding"]
    if padding not in ("same", "valid"):
        raise BundleError(f"padding is {_short(padding)}; expected 'same' or 'valid'")
    pads = same_pads(grid, kernel, stride) if padding == "same" else NO_PADS
    size = [
        (length + sum(pair) - width) // step + 1
        for length, pair, width, step in zip(grid, pads, kernel, stride, strict=True)
    ]
    if min(size) < 1:
        raise BundleError(f"a kernel of {kernel} does not fit into {grid}")
    return pads, (size[0], size[1], size[2])


def _reshape(sizes: Any, shape: Shape) -> tuple[nn.Module, Shape]:
    values = math.prod(shape)
    good = isinstance(sizes, (list, tuple)) and 0 < len(sizes) <= 8
    if not good or not all(type(length) is int and 1 <= length <= values for length in sizes):
        raise BundleError(f"reshape to {_short(sizes)}; expected a list of positive integers")
    if math.prod(sizes) != values:
        raise BundleError(f"{shape} has {values} values and cannot become {tuple(sizes)}")
    return layers.Reshape(sizes), tuple(sizes)


def _pad(pads: Any, shape: Shape) -> tuple[nn.Module, Shape]:
    good = isinstance(pads, list) and len(pads) == 3 and all(isinstance(p, list) and len(p) == 2 for p in pads)
    if not good or not all(type(side) is int and 0 <= side <= 4096 for pair in pads for side in pair):
        raise BundleError(f"pads are {_short(pads)}; expected (before, after) of each axis")
    size = tuple(length + sum(pair) for length, pair in zip(shape[:3], pads, strict=True))
    return layers.Pad(tuple((before, after) for before, after in pads)), (*size, shape[3])


def _merged(kind: str, options: Mapping[str, Any], given: Sequence[Shape]) -> tuple[nn.Module, Shape]:
    first = given[0]
    if kind == "add":
        if any(shape != first for shape in given):
            raise BundleError(f"adds {given}; expected one shape")
        return layers.Sum(), first
    axis = options["axis"]  # the batch is 0
    if type(axis) is not int or not 1 <= axis <= len(first):
        raise BundleError(f"axis is {_short(axis)}; expected 1 to {len(first)}")
    at = axis - 1
    if any(len(shape) != len(first) or shape[:at] + shape[at + 1 :] != first[:at] + first[at + 1 :] for shape in given):
        raise BundleError(f"joins {given} along axis {axis}; expected shapes that differ there alone")
    return layers.Join(axis), (*first[:at], sum(shape[at] for shape in given), *first[at + 1 :])


def _activation(options: Mapping[str, Any]) -> Activation:
    activation = options["activation"]
    name = activation.get("name") if isinstance(activation, dict) else None
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise BundleError(f"activation is {_short(activation)}; known are {', '.join(sorted(ACTIVATIONS))}")
    numbers = {key: value for key, value in activation.items() if key != "name"}
    finite = all(v is None or (isinstance(v, (int, float)) and math.isfinite(v)) for v in numbers.values())
    if not set(numbers) <= set(ACTIVATIONS[name]) or not finite:
        raise BundleError(
            f"activation is {_short(activation)}; {name} may have {list(ACTIVATIONS[name])}, finite numbers"
        )
    return Activation(name, numbers)


def _field(
    kind: str, options: Mapping[str, Any], given: Sequence[tuple[Size, Size]], rank: int
) -> tuple[Size, Size] | None:
    """Return (receptive field, step between neighbours) in voxels of the input; None for the whole window."""
    whole = kind in ("reshape", "global_max_pool", "global_mean_pool")
    if rank != 4 or whole or (kind == "layer_norm" and options["axes"] != [4]):
        return None
    fields = [[max(field[axis] for field, _ in given), max(jump[axis] for _, jump in given)] for axis in range(3)]
    if "kernel" in options:
        dilation = options.get("dilation", (1, 1, 1))
        for axis in range(3):
            field, jump = fields[axis]
            reach = (options["kernel"][axis] - 1) * dilation[axis]
            fields[axis] = [field + reach * jump, jump * options["stride"][axis]]
    (z, jz), (y, jy), (x, jx) = fields
    return (z, y, x), (jz, jy, jx)


def _as_one_row(fields: Mapping[str, Size]) -> list[Layer]:
    """Return layers with these receptive fields, although the graph may branch: each widens the one before it."""
    row, before = [], (1, 1, 1)
    for tap, (z, y, x) in fields.items():
        row.append(Layer((z - before[0] + 1, y - before[1] + 1, x - before[2] + 1), (1, 1, 1), tap))
        before = (z, y, x)
    return row


def _three(value: Any, what: str) -> Size:
    good = isinstance(value, (list, tuple)) and len(value) == 3
    if not good or not all(type(length) is int and 1 <= length <= 4096 for length in value):
        raise BundleError(f"{what} is {_short(value)}; expected three integers from 1 to 4096")
    return value[0], value[1], value[2]


def _whole(options: Mapping[str, Any], key: str, least: int) -> int:
    value = options[key]
    if type(value) is not int or not least <= value <= 65536:
        raise BundleError(f"{key} is {_short(value)}; expected an integer from {least} to 65536")
    return value


def _number(options: Mapping[str, Any], key: str) -> float:
    value = options[key]
    if type(value) not in (int, float) or not math.isfinite(value):
        raise BundleError(f"{key} is {_short(value)}; expected a finite number")
    return float(value)


def _axes(value: Any, shape: Shape, *, least: int) -> list[int]:
    """Return ascending axes in Keras' order; the batch, 0, is not among them."""
    good = isinstance(value, (list, tuple)) and least <= len(value) <= len(shape)
    if not good or not all(type(axis) is int and 1 <= axis <= len(shape) for axis in value):
        raise BundleError(f"axes are {_short(value)}; expected a list of 1 to {len(shape)}")
    if list(value) != sorted(set(value)):
        raise BundleError(f"axes are {_short(value)}; expected ascending numbers")
    return list(value)


def _flag(options: Mapping[str, Any], key: str) -> bool:
    value = options[key]
    if type(value) is not bool:
        raise BundleError(f"{key} is {_short(value)}; expected true or false")
    return value


def _affordable(weights: int) -> None:
    if weights > VALUES:
        raise BundleError(f"{weights} weights; expected at most {VALUES}")


def _short(value: Any) -> str:
    return repr(value)[:80]
