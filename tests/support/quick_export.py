"""Encoder and decoder as ONNX, but torch's exporter, which takes seconds, runs once for each kind of network.

What it gave for one set of weights becomes a template; every other network of the same kind gets its own weights in the
template's place, and is compared with torch. Tests of the export itself call `models.bundle.export`. The workers of a
run of pytest share their templates in a folder, which `tests/conftest.py` names in the environment.
"""

from __future__ import annotations

import copy
import fcntl
import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from models.bundle.export import decoder_onnx, encoder_onnx
from models.networks.vae import Vae


class Template(NamedTuple):
    """An exported encoder, and which of its initialisers hold which weights.

    Attributes:
        graph: the model that torch's exporter gave.
        weights: name of an initialiser → name in the `state_dict`; the values are the same, the shape may not be.
    """

    graph: onnx.ModelProto
    weights: dict[str, str]


FOLDER = "CTVAE_TEST_EXPORTS"
"""Environment variable with the folder that the workers of this run share."""

_templates: dict[str, Template] = {}


def export_quickly(patch: pytest.MonkeyPatch) -> None:
    """Let whatever writes a bundle export it so."""
    patch.setattr("models.bundle.export.encoder_onnx", quick_encoder_onnx)
    patch.setattr("models.bundle.export.decoder_onnx", quick_decoder_onnx)


def quick_encoder_onnx(vae: Vae) -> bytes:
    """Return what `encoder_onnx` returns, except that the names of inner values may differ."""
    exported = _quick(vae, encoder_onnx)
    _compare(exported, vae)
    return exported


def quick_decoder_onnx(vae: Vae) -> bytes:
    """Return what `decoder_onnx` returns, likewise."""
    exported = _quick(vae, decoder_onnx)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    z = torch.rand(session.get_inputs()[0].shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = vae.eval().decode(z)
    np.testing.assert_allclose(session.run(None, {"z": z.numpy()})[0], expected.numpy(), rtol=1e-4, atol=1e-5)
    return exported


def _quick(vae: Vae, export: Callable[[Vae], bytes]) -> bytes:
    state = {name: tensor.detach().numpy() for name, tensor in vae.state_dict().items()}
    kind = f"{export.__name__} {_kind(vae)}"
    if kind not in _templates:
        _templates[kind] = _shared(kind, vae, export)
    graph, weights = onnx.ModelProto(), _templates[kind].weights
    graph.CopyFrom(_templates[kind].graph)
    for held in graph.graph.initializer:
        if held.name in weights:
            held.CopyFrom(numpy_helper.from_array(state[weights[held.name]].reshape(held.dims), held.name))
    exported: bytes = graph.SerializeToString(deterministic=True)
    return exported


def _kind(vae: Vae) -> str:
    """All that shapes the graph: each part's class and what it was told, and the shapes of the weights."""
    told = [
        (name, type(part).__name__, {key: value for key, value in vars(part).items() if key[0] != "_"})
        for name, part in vae.named_modules()
    ]
    return repr((told, [(name, tuple(tensor.shape)) for name, tensor in vae.state_dict().items()]))


def _shared(kind: str, vae: Vae, export: Callable[[Vae], bytes]) -> Template:
    """Return the template that another worker made, or make it while the others wait for it."""
    kept = Path(os.environ[FOLDER], sha256(kind.encode()).hexdigest())
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if kept.with_suffix(".json").exists():
            return Template(onnx.load(kept.with_suffix(".onnx")), json.loads(kept.with_suffix(".json").read_text()))
        made = _template(vae, export)
        onnx.save(made.graph, kept.with_suffix(".onnx"))
        kept.with_suffix(".json").write_text(json.dumps(made.weights))
        return made


def _template(vae: Vae, export: Callable[[Vae], bytes]) -> Template:
    """Export the network with weights that are all different, so that each is recognised in the graph."""
    other = copy.deepcopy(vae)
    generator = torch.Generator().manual_seed(0)
    for tensor in other.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    graph = onnx.load_from_string(export(other))
    by_values = {tensor.numpy().tobytes(): name for name, tensor in other.state_dict().items()}
    found = {held.name: by_values.get(numpy_helper.to_array(held).tobytes()) for held in graph.graph.initializer}
    return Template(graph, {held: name for held, name in found.items() if name is not None})


def _compare(exported: bytes, vae: Vae) -> None:
    window = torch.rand((1, 1, *vae.window_voxels), generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = vae.eval().taps(window, vae.tap_names)
    given = session.run(list(vae.tap_names), {"image": window.numpy()})
    for (name, value), other in zip(expected.items(), given, strict=True):
        np.testing.assert_allclose(other, value.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
