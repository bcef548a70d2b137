"""The encoder as ONNX: each tap is an output by its own name, whatever the exporter calls its values."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from models.bundle.export import encoder_onnx
from models.networks.registry import build_vae

LINEAR = {"name": "linear"}


def encoder_with(first: str, second: str) -> dict[str, object]:
    """Parameters of an encoder whose second layer is an alias of the first."""
    conv = {"kernel": [3, 3, 3], "stride": [1, 1, 1], "dilation": [1, 1, 1], "channels": 2, "groups": 1}
    dense = {"kind": "dense", "units": 2, "bias": True, "activation": LINEAR}
    steps = [
        {"name": first, "kind": "conv", "inputs": ["image"], **conv, "padding": "same", "bias": True}
        | {"activation": {"name": "relu"}},
        {"name": second, "kind": "activation", "inputs": [first], "activation": LINEAR},
        {"name": "flat", "kind": "reshape", "inputs": [second], "shape": [128]},
        {"name": "mu", "inputs": ["flat"], **dense},
        {"name": "logvar", "inputs": ["flat"], **dense},
    ]
    return {"window_voxels": [4, 4, 4], "steps": steps}


@pytest.mark.parametrize(
    "names", [("conv3d", "relu"), ("val_0", "val_1"), ("getitem", "view"), ("add", "linear"), ("exp", "mul")]
)
def test_a_tap_may_be_called_like_a_value_of_the_exporter(names):
    torch.manual_seed(0)
    vae = build_vae("keras", encoder_with(*names)).eval()
    session = onnxruntime.InferenceSession(encoder_onnx(vae), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == list(vae.tap_names)
    window = torch.rand(1, 1, 4, 4, 4)
    with torch.no_grad():
        expected = vae.taps(window, vae.tap_names)
    for name, values in zip(vae.tap_names, session.run(None, {"image": window.numpy()}), strict=True):
        np.testing.assert_allclose(values, expected[name].numpy(), atol=1e-6, err_msg=name)
