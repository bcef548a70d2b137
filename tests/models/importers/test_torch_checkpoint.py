"""Checkpoints as users have them: of monai-generative, of Lightning with other parts beside, of VarAutoEncoder."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from models.bundle.export import encoder_onnx
from models.importers.torch_checkpoint import import_checkpoint, read_parameters
from models.networks.autoencoder_kl import of_monai_generative
from models.spec import BundleError

IN_SHAPE = [1, 8, 12, 16]
PLAIN = {"channels": [4, 8], "strides": [2, 2]}
RESIDUAL = {"channels": [4, 8], "strides": [1, 2], "num_res_units": 2, "inter_channels": [6, 8]}
RESIDUAL |= {"inter_dilations": [1, 2], "norm": "BATCH", "act": "RELU", "use_sigmoid": False}


@pytest.fixture(autouse=True, scope="module")
def _monai():
    """MONAI imports the SDK where that is installed, which warns of the size of the stack."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import monai.networks.nets  # noqa: F401


def var_autoencoder(given: dict) -> torch.nn.Module:
    from monai.networks.nets import VarAutoEncoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VarAutoEncoder(spatial_dims=3, in_shape=IN_SHAPE, out_channels=1, latent_size=5, **given).eval()


def saved(tmp_path: Path, state: object, given: dict) -> tuple[Path, Path]:
    """(checkpoint, its parameters)."""
    parameters = {"spatial_dims": 3, "in_shape": IN_SHAPE, "out_channels": 1, "latent_size": 5, "dropout": 0.1, **given}
    torch.save(state, tmp_path / "net.pt")
    (tmp_path / "net.json").write_text(json.dumps(parameters))
    return tmp_path / "net.pt", tmp_path / "net.json"


@pytest.mark.parametrize("wrap", ["plain", "lightning"])
def test_a_checkpoint_of_monai_generative_gives_what_it_gave(shared_fault, tmp_path, wrap):
    folder = shared_fault("monai-generative-names")
    parameters = read_parameters(folder / "p.json", "autoencoder_kl")
    windows, expected = np.load(folder / "w.npy"), np.load(folder / "want.npz")
    file = folder / "old.pt"
    if wrap == "lightning":
        state = torch.load(file, weights_only=True)
        whole = {f"autoencoder.{key}": tensor for key, tensor in state.items()}
        file = tmp_path / "last.ckpt"
        torch.save({"epoch": 3, "state_dict": {**whole, "discriminator.model.0.weight": torch.ones(2)}}, file)
    vae, _ = import_checkpoint(file, "autoencoder_kl", parameters | {"window_voxels": list(windows.shape[2:])})
    with torch.inference_mode():
        taps = vae.taps(torch.from_numpy(windows), ("latent", "latent_sigma"))
    np.testing.assert_allclose(taps["latent"], expected["mu"], atol=1e-6)
    np.testing.assert_allclose(taps["latent_sigma"], expected["sigma"], atol=1e-6)


def test_names_of_monai_generative_are_mapped_as_monai_maps_them():
    from monai.networks.nets import AutoencoderKL

    parameters = {"channels": (8, 16), "num_res_blocks": (1, 1), "attention_levels": (False, True)}
    net = AutoencoderKL(3, 1, 1, **parameters, latent_channels=3, norm_num_groups=4)
    old = {}
    for key, tensor in net.state_dict().items():
        if ".attn.out_proj." not in key:  # then MONAI takes the identity
            old[key.replace(".attn.", ".").replace(".postconv.", ".conv.")] = tensor + 1
    mapped = of_monai_generative(old, net.state_dict())
    net.load_old_state_dict(dict(old))
    assert mapped.keys() == net.state_dict().keys()
    assert all(torch.equal(mapped[key], tensor) for key, tensor in net.state_dict().items())


def test_two_networks_in_one_checkpoint_are_not_chosen_between(tmp_path):
    state = var_autoencoder(PLAIN).state_dict()
    both = {f"{part}.{key}": tensor for part in ("net", "average") for key, tensor in state.items()}
    file, parameters = saved(tmp_path, both, PLAIN)
    with pytest.raises(BundleError, match=r"holds 2 networks, below 'average\.', 'net\.'"):
        import_checkpoint(file, "var_autoencoder", read_parameters(parameters, "var_autoencoder"))


def test_a_value_that_is_not_finite_is_named_as_the_checkpoint_names_it(tmp_path):
    state = {f"module.{key}": tensor.clone() for key, tensor in var_autoencoder(PLAIN).state_dict().items()}
    state["module.encode.encode_1.conv.bias"][2] = torch.nan
    file, parameters = saved(tmp_path, state, PLAIN)
    with pytest.raises(BundleError, match=r"the checkpoint's module\.encode\.encode_1\.conv\.bias holds NaN"):
        import_checkpoint(file, "var_autoencoder", read_parameters(parameters, "var_autoencoder"))


@pytest.mark.parametrize("axes", ["SPL", "RAS"])
@pytest.mark.parametrize("given", [PLAIN, RESIDUAL])
def test_monais_var_autoencoder_is_read_at_its_posterior_mean(tmp_path, given, axes):
    net = var_autoencoder(given)
    file, parameters = saved(tmp_path, {"state_dict": net.state_dict()}, given)
    vae, _ = import_checkpoint(
        file, "var_autoencoder", read_parameters(parameters, "var_autoencoder", axes) | {"axes": axes}
    )
    seen = torch.rand(2, *IN_SHAPE)
    windows = seen if axes == "SPL" else seen.flip([2, 3]).permute(0, 1, 4, 3, 2)
    with torch.inference_mode():
        expected, decoded = net.encode_forward(seen), net.decode_forward(net.encode_forward(seen)[0], net.use_sigmoid)
        got = vae.encode(windows)
        reconstructed = vae.decode(got[0])
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    back = decoded if axes == "SPL" else decoded.flip([2, 3]).permute(0, 1, 4, 3, 2)
    torch.testing.assert_close(reconstructed, back)


def test_the_exported_var_autoencoder_agrees(tmp_path):
    file, parameters = saved(tmp_path, var_autoencoder(RESIDUAL).state_dict(), RESIDUAL)
    vae, _ = import_checkpoint(file, "var_autoencoder", read_parameters(parameters, "var_autoencoder"))
    window = torch.rand(1, 1, *vae.window_voxels)
    session = onnxruntime.InferenceSession(encoder_onnx(vae), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = vae.taps(window, vae.tap_names)
    for name, values in zip(vae.tap_names, session.run(None, {"image": window.numpy()}), strict=True):
        np.testing.assert_allclose(values, expected[name].numpy(), atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"in_shape": [2, 8, 12, 16]}, "a window has one channel"),
        ({"in_shape": [1, 9, 12, 16]}, "not a multiple of 4"),
        ({"strides": [2]}, "different lengths"),
        ({"inter_channels": ["a"]}, "inter_channels is"),
        ({"channels": [8, 8]}, "give the parameters that it was trained with"),
    ],
)
def test_parameters_of_a_var_autoencoder_that_do_not_fit_are_one_line(tmp_path, change, says):
    file, parameters = saved(tmp_path, var_autoencoder(PLAIN).state_dict(), PLAIN | change)
    with pytest.raises(BundleError, match=says) as caught:
        import_checkpoint(file, "var_autoencoder", read_parameters(parameters, "var_autoencoder"))
    assert "\n" not in str(caught.value)
