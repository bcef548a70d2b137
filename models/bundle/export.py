"""A network in the form others use: its taps described, its encoder as ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.networks.vae import Vae, receptive_fields
from models.runtime import OUTPUT
from models.spec import TapSpec

ONNX_OPSET = 18

_OUTPUT = "output/"
"""Prefix of an output's name during export: the exporter gives no value such a name."""


def tap_specs(vae: Vae, spacing_mm: tuple[float, float, float] | None) -> tuple[TapSpec, ...]:
    """Return the network's taps as a bundle describes them; without a spacing, receptive fields in mm are not known."""
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
    """The module to export: from a window to every tap, in order."""

    def __init__(self, vae: Vae) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.vae.taps(image, self.vae.tap_names).values())


def encoder_onnx(vae: Vae) -> bytes:
    """Return the encoder as ONNX: input `image` (1, 1, d, h, w), each tap a named output, weights inside.

    It takes one window per call: the same window then gives the same bits, whatever it would be batched with.
    """
    return _onnx(_AllTaps(vae), torch.zeros(1, 1, *vae.window_voxels), "image", vae.tap_names)


def decoder_onnx(vae: Vae) -> bytes:
    """Return the decoder as ONNX: input `z` (1, latents), output `reconstruction` (1, 1, d, h, w), not clipped.

    Raises:
        BundleError: there is no decoder.
    """
    with torch.no_grad():
        mu, _ = vae.encode(torch.zeros(1, 1, *vae.window_voxels))
        vae.decode(mu)
    return _onnx(_Decoder(vae), torch.zeros_like(mu), "z", (OUTPUT,))


def mu_decoder_onnx(vae: Vae) -> bytes | None:
    """Return the decoder as ONNX if it decodes the vector mu; None if there is none, or it needs a grid of latents."""
    if vae.decoder is None:
        return None
    window = torch.zeros(1, 1, *vae.window_voxels)
    with torch.no_grad():
        latent, mu = vae.eval().encode(window)[0], vae.taps(window, ("mu",))["mu"]
    return decoder_onnx(vae) if latent.shape == mu.shape else None


class _Decoder(nn.Module):
    """The module to export: from latents to a window."""

    def __init__(self, vae: Vae) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor) -> Tensor:
        return self.vae.decode(z)


def _onnx(module: nn.Module, example: Tensor, given: str, outputs: Sequence[str]) -> bytes:
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # no torchvision: fine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter copies objects that torch itself deprecates
        program = torch.onnx.export(
            module.eval(),
            (example,),
            input_names=[given],
            output_names=[f"{_OUTPUT}{name}" for name in outputs],
            opset_version=ONNX_OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    for described in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info):
        del described.metadata_props[:]  # stack traces with paths of this machine
    for function in proto.functions:
        del function.metadata_props[:]
    _name_outputs(proto.graph, outputs)
    exported: bytes = proto.SerializeToString(deterministic=True)
    return exported


def _name_outputs(graph: Any, outputs: Sequence[str]) -> None:
    """Give the outputs their names, and rename any other value that has one of these names.

    The exporter names values after what computes them, and taps may have the same names: `conv3d`, `relu`, `linear`.
    """
    names = {name: f"{name}/value" for name in outputs} | {f"{_OUTPUT}{name}": name for name in outputs}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for named in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        named.name = names.get(named.name, named.name)
