"""The networks, each by its name: `question` and `ct_vae`.

An encoder is a row of named stages, each a tap, and two linear heads, mu and log-variance of the posterior q(z|x)
(Kingma and Welling 2014, arXiv:1312.6114). Tensors are (n, channels, d, h, w), axes (z, y, x).
"""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from models.bundle import BundleError, TapSpec
from models.layers import ChannelsLastFlatten, Fold, Grid, ResidualBlock, SamePadConv3d, SoftBound, Unfold

Size = tuple[int, int, int]

ONNX_OPSET = 18


@dataclass(frozen=True, slots=True)
class Layer:
    """What a receptive field needs to know of a layer: its kernel and stride (z, y, x), and the tap that it ends."""

    kernel: Size
    stride: Size
    tap: str | None = None


class Vae(nn.Module):
    """Encoder with named taps, and decoder.

    Attributes:
        stages: name → module, one after the other; each name is a tap.
        layers: of the convolutional part, for the receptive fields.
        window_voxels: (d, h, w) that it takes.
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        heads: tuple[nn.Module, nn.Module],
        decoder: nn.Module,
        *,
        layers: Sequence[Layer],
        window_voxels: Size,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(stages)
        self.mu, self.logvar = heads
        self.decoder = decoder
        self.layers = tuple(layers)
        self.window_voxels = window_voxels

    @property
    def tap_names(self) -> tuple[str, ...]:
        """All taps: `mu`, `sigma`, then the stages from input to heads."""
        return ("mu", "sigma", *self.stages)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log-variance), each (n, latents), of windows (n, 1, d, h, w) in [0, 1]."""
        for stage in self.stages.values():
            x = stage(x)
        return self.mu(x), self.logvar(x)

    def taps(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """The named taps, all from one forward pass; sigma = exp(log-variance / 2)."""
        found: dict[str, Tensor] = {}
        for name, stage in self.stages.items():
            found[name] = x = stage(x)
        found["mu"] = self.mu(x)
        found["sigma"] = torch.exp(0.5 * self.logvar(x))
        return {name: found[name] for name in names}

    def decode(self, z: Tensor) -> Tensor:
        """Windows (n, 1, d, h, w), not clipped, of latents (n, latents)."""
        decoded: Tensor = self.decoder(z)
        return decoded


def question(
    *,
    window_voxels: Size = (32, 256, 256),
    channels: tuple[int, ...] = (16, 32, 64, 32, 16),
    dense: int = 256,
    latents: int = 32,
) -> Vae:
    """The network of the question that started this project; 320,096 parameters in its encoder as it stands.

    Conv3D 2×2×2 `same` ReLU, each followed by a MaxPool of 2; flattened channels last; Dense ReLU; two linear heads.
    """
    stages: dict[str, nn.Module] = {}
    layers: list[Layer] = []
    before = 1
    for number, after in enumerate(channels, 1):
        stages[f"block{number}"] = nn.Sequential(SamePadConv3d(before, after, 2), nn.ReLU(), nn.MaxPool3d(2))
        layers += [Layer((2, 2, 2), (1, 1, 1)), Layer((2, 2, 2), (2, 2, 2), f"block{number}")]
        before = after
    grid = _halved(window_voxels, len(channels))
    flat = channels[-1] * math.prod(grid)
    stages["dense"] = nn.Sequential(ChannelsLastFlatten(), nn.Linear(flat, dense), nn.ReLU())
    up: list[nn.Module] = [nn.Linear(latents, dense), nn.ReLU(), nn.Linear(dense, flat), Grid(channels[-1], grid)]
    for before, after in zip(channels[::-1], (*channels[-2::-1], 1), strict=True):
        up += [nn.ReLU(), nn.ConvTranspose3d(before, after, 2, 2)]
    heads = nn.Linear(dense, latents), nn.Linear(dense, latents)
    return Vae(stages, heads, nn.Sequential(*up), layers=layers, window_voxels=window_voxels)


def ct_vae(
    *,
    window_voxels: Size = (32, 96, 96),
    fold: Size = (4, 4, 4),
    channels: tuple[int, ...] = (32, 64, 80),
    neck: int = 16,
    dense: int = 256,
    latents: int = 32,
) -> Vae:
    """Patches of voxels folded into channels, then residual blocks, each after the first at half the grid.

    Channels in multiples of 16 and a folding stem are what makes 3D convolutions fast on a CPU.
    """
    if any(width % 8 for width in channels):
        raise BundleError(f"ct_vae channels are {channels}; expected multiples of 8 (of 16 for speed)")
    if any(size % patch for size, patch in zip(window_voxels, fold, strict=True)):
        raise BundleError(f"ct_vae window {window_voxels} is no multiple of its fold {fold}; choose another of them")
    patch = math.prod(fold)
    folded = (window_voxels[0] // fold[0], window_voxels[1] // fold[1], window_voxels[2] // fold[2])
    grid = _halved(folded, len(channels) - 1)
    stages: dict[str, nn.Module] = {"stem": nn.Sequential(Fold(fold), nn.Conv3d(patch, channels[0], 1))}
    stages["block1"] = ResidualBlock(channels[0])
    layers = [Layer(fold, fold, "stem"), *_residual("block1")]
    for number, (before, after) in enumerate(pairwise(channels), 2):
        stages[f"block{number}"] = nn.Sequential(nn.Conv3d(before, after, 2, 2), ResidualBlock(after))
        layers += [Layer((2, 2, 2), (2, 2, 2)), *_residual(f"block{number}")]
    last, flat = channels[-1], neck * math.prod(grid)
    squeeze = nn.Sequential(nn.GroupNorm(8, last), nn.SiLU(), nn.Conv3d(last, neck, 1), ChannelsLastFlatten())
    stages["dense"] = nn.Sequential(squeeze, nn.Linear(flat, dense), nn.SiLU())
    up: list[nn.Module] = [nn.Linear(latents, dense), nn.SiLU(), nn.Linear(dense, flat), Grid(neck, grid)]
    up.append(nn.Conv3d(neck, last, 1))
    for before, after in pairwise(channels[::-1]):
        up += [nn.ConvTranspose3d(before, after, 2, 2), ResidualBlock(after)]
    up += [nn.Conv3d(channels[0], patch, 1), Unfold(fold)]
    heads = nn.Linear(dense, latents), nn.Sequential(nn.Linear(dense, latents), SoftBound(16.0))
    return Vae(stages, heads, nn.Sequential(*up), layers=layers, window_voxels=window_voxels)


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


def receptive_fields(layers: Sequence[Layer]) -> dict[str, Size]:
    """Tap → how many input voxels (z, y, x) one of its values sees through the convolutions.

    By the recursion r ← r + (k - 1)·j, j ← j·s. Normalisation is left out of it: GroupNorm's mean and variance are
    taken over the whole window.
    """
    field, jump, found = [1, 1, 1], [1, 1, 1], {}
    for layer in layers:
        field = [seen + (kernel - 1) * step for seen, kernel, step in zip(field, layer.kernel, jump, strict=True)]
        jump = [step * stride for step, stride in zip(jump, layer.stride, strict=True)]
        if layer.tap is not None:
            found[layer.tap] = (field[0], field[1], field[2])
    return found


def tap_specs(vae: Vae, spacing_mm: tuple[float, float, float] | None) -> tuple[TapSpec, ...]:
    """What a bundle says of the network's taps; without a spacing no receptive field in mm is known."""
    fields = receptive_fields(vae.layers)
    with torch.no_grad():
        values = vae.eval().taps(torch.zeros(1, 1, *vae.window_voxels), vae.tap_names)
    specs = []
    for name, value in values.items():
        seen_mm = None
        if spacing_mm is not None and name in fields:
            seen = [min(voxels, size) for voxels, size in zip(fields[name], vae.window_voxels, strict=True)]
            seen_mm = (seen[0] * spacing_mm[0], seen[1] * spacing_mm[1], seen[2] * spacing_mm[2])
        specs.append(TapSpec(name, tuple(value.shape[1:]), "none" if value.ndim == 2 else "mean", seen_mm))
    return tuple(specs)


class _AllTaps(nn.Module):
    """What is exported: window → every tap, in order."""

    def __init__(self, vae: Vae) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.vae.taps(image, self.vae.tap_names).values())


def encoder_onnx(vae: Vae) -> bytes:
    """The encoder as ONNX: input `image` (1, 1, d, h, w), every tap an output by its name, weights inside.

    One window a call: the same window then gives the same bits, whatever it is batched with.
    """
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # no torchvision: fine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter copies objects that torch itself deprecates
        program = torch.onnx.export(
            _AllTaps(vae).eval(),
            (torch.zeros(1, 1, *vae.window_voxels),),
            input_names=["image"],
            output_names=list(vae.tap_names),
            opset_version=ONNX_OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    for described in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info):
        del described.metadata_props[:]  # stack traces, with the paths of this machine
    for function in proto.functions:
        del function.metadata_props[:]
    exported: bytes = proto.SerializeToString(deterministic=True)
    return exported


def _residual(tap: str) -> tuple[Layer, Layer]:
    return Layer((3, 3, 3), (1, 1, 1)), Layer((3, 3, 3), (1, 1, 1), tap)


def _halved(size: Size, times: int) -> Size:
    """The grid after so many halvings."""
    step = 2**times
    if any(length % step for length in size):
        raise BundleError(f"a grid of {size} cannot be halved {times} times; choose a window that can")
    return size[0] // step, size[1] // step, size[2] // step
