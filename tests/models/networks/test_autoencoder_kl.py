"""MONAI's autoencoders are read at their posterior mean, and a user's checkpoint of one becomes a bundle."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from app.cli import main
from models.bundle.export import encoder_onnx, mu_decoder_onnx, tap_specs
from models.bundle.store import load_bundle
from models.importers.torch_checkpoint import import_checkpoint, read_parameters
from models.networks.autoencoder_kl import NATIVE_AXES, DenseVae, monai_state
from models.networks.registry import build_vae
from models.runtime import OnnxEncoder
from models.spec import BundleError
from tests.support.checkout import skip_or_fail

WINDOW = (8, 16, 24)
COMMON = {"num_res_blocks": [1, 1], "attention_levels": [False, False], "latent_channels": 3, "norm_num_groups": 4}
PLAIN = {"with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False}
PARAMETERS = {
    "autoencoder_kl": {**COMMON, **PLAIN, "channels": [8, 16]},
    "autoencoder_kl_maisi": {**COMMON, "num_channels": [8, 16]},
}


@pytest.fixture(autouse=True, scope="module")
def _monai():
    """MONAI imports the SDK where that is installed, which warns of the size of the stack."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import monai.networks.nets  # noqa: F401


def monai_net(architecture: str, **more) -> torch.nn.Module:
    """MONAI's own network with weights from a seed."""
    from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
    from monai.networks.nets.autoencoderkl import AutoencoderKL

    kind = {"autoencoder_kl": AutoencoderKL, "autoencoder_kl_maisi": AutoencoderKlMaisi}[architecture]
    if architecture == "autoencoder_kl_maisi":
        more = {"num_splits": 1, **more}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parameters = {**PARAMETERS[architecture], **more}
        return kind(spatial_dims=3, in_channels=1, out_channels=1, **parameters).eval()


def ours(net: torch.nn.Module, architecture: str, **more) -> DenseVae:
    vae = build_vae(architecture, {**PARAMETERS[architecture], "window_voxels": list(WINDOW), **more})
    vae.load_state_dict(monai_state(net.state_dict(), vae, vae.monai_names()))
    return vae.eval()


def windows(n: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).random((n, 1, *WINDOW), np.float32))


@pytest.mark.parametrize("architecture", sorted(PARAMETERS))
def test_the_taps_are_monais_own_posterior(architecture):
    net = monai_net(architecture)
    vae = ours(net, architecture)
    with torch.no_grad():
        mean, sigma = net.encode(windows(2))
        taps = vae.taps(windows(2), vae.tap_names)
    torch.testing.assert_close(taps["latent"], mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(taps["latent_sigma"], sigma, atol=1e-5, rtol=0)
    torch.testing.assert_close(taps["mu"], mean.mean(dim=(2, 3, 4)), atol=1e-5, rtol=0)
    assert list(taps) == ["mu", "sigma", "latent", "latent_sigma", "block1", "block2", "neck"]


def test_sigma_is_that_of_the_mixture_of_the_grids_posteriors():
    vae = ours(monai_net("autoencoder_kl"), "autoencoder_kl")
    with torch.no_grad():
        taps = vae.taps(windows(), vae.tap_names)
        drawn = torch.distributions.Normal(taps["latent"], taps["latent_sigma"]).sample((400,))
    expected = drawn.transpose(0, 2)[:, 0].reshape(3, -1).std(dim=1)
    torch.testing.assert_close(taps["sigma"][0], expected, rtol=0.01, atol=0)


@pytest.mark.parametrize("architecture", sorted(PARAMETERS))
def test_the_decoder_is_monais_and_takes_what_encode_gives(architecture):
    net = monai_net(architecture)
    vae = ours(net, architecture)
    with torch.no_grad():
        mu, logvar = vae.encode(windows(2))
        torch.testing.assert_close(vae.decode(mu), net.reconstruct(windows(2)), atol=1e-5, rtol=0)
    assert mu.shape == logvar.shape == (2, 3 * 4 * 8 * 12)


def test_a_network_of_other_axes_is_given_the_window_as_it_knows_it():
    net = monai_net("autoencoder_kl")
    vae = ours(net, "autoencoder_kl", axes="RAS")
    # MONAI's RAS array: first axis towards the right, second to the front, third to the head.
    as_monai = windows().permute(0, 1, 4, 3, 2).flip([2, 3])
    with torch.no_grad():
        taps = vae.taps(windows(), ("mu", "latent"))
        mean, _ = net.encode(as_monai)
        mu, _ = vae.encode(windows())
        decoded = vae.decode(mu)
        expected = net.reconstruct(as_monai).flip([2, 3]).permute(0, 1, 4, 3, 2)
    torch.testing.assert_close(taps["latent"], mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(decoded, expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        assert not torch.allclose(taps["mu"], ours(net, "autoencoder_kl").taps(windows(), ("mu",))["mu"], atol=1e-3)


def test_monais_orientation_turns_our_axes_into_those_it_was_trained_on():
    from monai.data import MetaTensor
    from monai.transforms import Orientation

    to_ras = np.array([[0, 0, -1.0, 23], [0, -1, 0, 15], [1, 0, 0, 0], [0, 0, 0, 1]])  # (z, y, x) → RAS
    turned = Orientation(axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(
        MetaTensor(windows()[0], affine=to_ras)
    )
    vae = ours(monai_net("autoencoder_kl"), "autoencoder_kl", axes="RAS")
    assert torch.equal(vae.axes.to_network(windows())[0], turned.as_tensor())


@pytest.mark.parametrize("architecture", sorted(PARAMETERS))
def test_the_exported_encoder_agrees_in_every_tap(architecture):
    import onnxruntime

    vae = ours(monai_net(architecture), architecture)
    session = onnxruntime.InferenceSession(encoder_onnx(vae), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = vae.taps(windows(), vae.tap_names)
    for name, got in zip(vae.tap_names, session.run(None, {"image": windows().numpy()}), strict=True):
        np.testing.assert_allclose(got, expected[name].numpy(), atol=1e-5, err_msg=name)


def test_the_receptive_field_is_what_a_changed_voxel_reaches():
    vae = ours(monai_net("autoencoder_kl"), "autoencoder_kl")
    for block in vae.modules():  # their statistics are over the whole window
        if isinstance(block, torch.nn.GroupNorm):
            block.forward = lambda x: x
    specs = {spec.name: spec for spec in tap_specs(vae, (1.0, 1.0, 1.0))}
    x = windows().requires_grad_()
    vae.taps(x, ("block1",))["block1"][0, :, 2, 4, 6].sum().backward()
    reached = torch.nonzero(x.grad[0, 0])
    extent = (reached.max(0).values - reached.min(0).values + 1).tolist()
    assert specs["block1"].receptive_field_mm == (8.0, 9.0, 9.0)
    assert extent[1:] == [9, 9]
    assert specs["latent"].receptive_field_mm is None


def test_attention_sees_the_whole_window():
    if importlib.util.find_spec("einops") is None:
        skip_or_fail("no einops, which MONAI's attention needs")
    attending = {"attention_levels": [False, True], "with_encoder_nonlocal_attn": True}
    net = monai_net("autoencoder_kl", **attending)
    vae = ours(net, "autoencoder_kl", **attending)
    with torch.no_grad():
        mean, _ = net.encode(windows())
        torch.testing.assert_close(vae.taps(windows(), ("latent",))["latent"], mean, atol=1e-5, rtol=0)
    specs = {spec.name: spec.receptive_field_mm for spec in tap_specs(vae, (1.0, 1.0, 1.0))}
    assert specs["block1"] is not None
    assert specs["block2"] is None


def test_a_package_that_is_missing_is_named(monkeypatch):
    def missing(*given, **named):
        raise ImportError("from einops.layers.torch import Rearrange (No module named 'einops').")

    monkeypatch.setattr("monai.networks.nets.autoencoderkl.SpatialAttentionBlock", missing)
    attending = {**PARAMETERS["autoencoder_kl"], "attention_levels": [False, True], "window_voxels": list(WINDOW)}
    with pytest.raises(BundleError, match=r"needs a package that is not installed: .*einops"):
        build_vae("autoencoder_kl", attending)


def test_it_can_be_trained_through_the_protocol():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = build_vae("autoencoder_kl", {**PARAMETERS["autoencoder_kl"], "window_voxels": list(WINDOW)}).train()
    optimiser = torch.optim.Adam(vae.parameters(), 2e-3)
    losses = []
    for _ in range(4):
        mu, logvar = vae.encode(windows(2))
        loss = (vae.decode(mu) - windows(2)).square().mean() + 1e-4 * logvar.square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("architecture", "change", "says"),
    [
        ("autoencoder_kl", {"channels": [8, 16, 16]}, "have different lengths"),
        ("autoencoder_kl", {"channels": [6, 16]}, "cannot be built"),
        ("autoencoder_kl", {"window_voxels": [9, 16, 24]}, "not a multiple of 2"),
        ("autoencoder_kl", {"axes": "RAX"}, "axes are 'RAX'"),
        ("autoencoder_kl", {"axes": "RLS"}, "axes are 'RLS'"),
        ("autoencoder_kl", {"attention_levels": [0, 1]}, "expected true or false"),
        ("autoencoder_kl", {"norm_eps": "small"}, "expected a positive number"),
        ("autoencoder_kl", {"num_channels": [8, 16]}, "cannot be built"),
        ("autoencoder_kl_maisi", {"latent_channels": 1 << 20}, "integers from 1 to 4096"),
    ],
)
def test_a_network_that_cannot_be_is_one_clear_line(architecture, change, says):
    with pytest.raises(BundleError, match=says) as caught:
        build_vae(architecture, {**PARAMETERS[architecture], "window_voxels": list(WINDOW), **change})
    assert "\n" not in str(caught.value)


@pytest.fixture
def parameters(tmp_path) -> Path:
    given = {
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 1,
        "use_checkpoint": False,
        **PARAMETERS["autoencoder_kl"],
    }
    (tmp_path / "params.json").write_text(json.dumps(given))
    return tmp_path / "params.json"


def import_torch(checkpoint: Path, parameters: Path, output: Path, *more: str) -> int:
    line = ["bundle", "import-torch", checkpoint, "--arch", "autoencoder_kl", "--params", parameters, "-o", output]
    return main([*map(str, line), "--window-voxels", "8,16,24", *more])


def test_a_checkpoint_becomes_a_bundle_that_gives_monais_mean(tmp_path, parameters, capsys):
    net = monai_net("autoencoder_kl")
    torch.save({"epoch": 7, "state_dict": net.state_dict()}, tmp_path / "net.pt")
    scans = "--spacing", "5,4,4", "--window-hu=-1000,1000", "--axes", NATIVE_AXES
    assert import_torch(tmp_path / "net.pt", parameters, tmp_path / "imported", *scans) == 0
    assert capsys.readouterr().err == ""
    bundle = load_bundle(tmp_path / "imported")
    with torch.no_grad():
        mean, _ = net.encode(windows())
    given = OnnxEncoder(bundle).run(windows().numpy(), ["mu", "latent"])
    np.testing.assert_allclose(given["latent"], mean.numpy(), atol=1e-5)
    np.testing.assert_allclose(given["mu"], mean.mean(dim=(2, 3, 4)).numpy(), atol=1e-5)
    assert bundle.preprocessing.spacing_mm == (5.0, 4.0, 4.0)
    assert main(["bundle", "check", str(bundle.path), "--force"]) == 0  # its weights are from a seed
    assert main(["bundle", "show", str(bundle.path)]) == 0


def test_without_a_preprocessing_it_takes_arrays_alone(tmp_path, parameters, quick_export):
    torch.save(monai_net("autoencoder_kl").state_dict(), tmp_path / "net.pt")
    assert import_torch(tmp_path / "net.pt", parameters, tmp_path / "imported") == 0
    assert load_bundle(tmp_path / "imported").arrays_only


def test_axes_that_nobody_named_are_warned_of(tmp_path, parameters, capsys, quick_export):
    torch.save(monai_net("autoencoder_kl").state_dict(), tmp_path / "net.pt")
    scans = "--fit", "resize", "--window-hu=-1000,1000"
    assert import_torch(tmp_path / "net.pt", parameters, tmp_path / "imported", *scans) == 0
    assert "import it again with --axes RAS" in capsys.readouterr().err
    assert load_bundle(tmp_path / "imported").architecture_parameters["axes"] == NATIVE_AXES


@pytest.mark.parametrize("wrap", ["state_dict", "unet_state_dict", "model", None])
@pytest.mark.parametrize("prefix", ["", "module.", "module.autoencoder."])
def test_weights_are_found_in_what_training_scripts_save(tmp_path, wrap, prefix):
    state = {f"{prefix}{key}": tensor for key, tensor in monai_net("autoencoder_kl").state_dict().items()}
    torch.save({wrap: state, "epoch": 3} if wrap else state, tmp_path / "net.pt")
    given = {**PARAMETERS["autoencoder_kl"], "window_voxels": list(WINDOW)}
    vae, _ = import_checkpoint(tmp_path / "net.pt", "autoencoder_kl", given)
    assert torch.equal(vae.mu.conv.weight, state[f"{prefix}quant_conv_mu.conv.weight"])


def test_weights_in_half_precision_and_in_safetensors_are_read(tmp_path):
    state = {key: tensor.half() for key, tensor in monai_net("autoencoder_kl").state_dict().items()}
    torch.save(state, tmp_path / "net.pt")
    safetensors.torch.save_file({key: tensor.float() for key, tensor in state.items()}, tmp_path / "net.safetensors")
    given = {**PARAMETERS["autoencoder_kl"], "window_voxels": list(WINDOW)}
    half, _ = import_checkpoint(tmp_path / "net.pt", "autoencoder_kl", given)
    other, _ = import_checkpoint(tmp_path / "net.safetensors", "autoencoder_kl", given)
    for name, tensor in half.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, other.state_dict()[name])


class Payload:
    """What a malicious checkpoint would hold."""

    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def error_of(capsys, checkpoint: Path, parameters: Path, output: Path, *more: str) -> str:
    assert import_torch(checkpoint, parameters, output, *more) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert not output.exists()
    return said


def test_nothing_in_a_checkpoint_is_executed(tmp_path, parameters, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Payload()}, tmp_path / "net.pt")
    said = error_of(capsys, tmp_path / "net.pt", parameters, tmp_path / "imported")
    assert "cannot be read without executing it" in said
    assert not (tmp_path / "executed").exists()


def test_weights_of_another_network_are_one_line(tmp_path, parameters, capsys):
    state = monai_net("autoencoder_kl").state_dict()
    out = tmp_path / "imported"
    torch.save({key: tensor for key, tensor in state.items() if "quant_conv_mu" not in key}, tmp_path / "less.pt")
    assert "lacks 2 keys (quant_conv_mu.conv.bias, quant_conv_mu.conv.weight)" in error_of(
        capsys, tmp_path / "less.pt", parameters, out
    )
    torch.save({**state, "extra": torch.zeros(1)}, tmp_path / "more.pt")
    assert "has 1 keys (extra) beyond the architecture" in error_of(capsys, tmp_path / "more.pt", parameters, out)
    torch.save(monai_net("autoencoder_kl", channels=[8, 24]).state_dict(), tmp_path / "wider.pt")
    assert "give the parameters that it was trained with" in error_of(capsys, tmp_path / "wider.pt", parameters, out)
    torch.save({**state, "quant_conv_mu.conv.bias": torch.full((3,), torch.nan)}, tmp_path / "nan.pt")
    assert "quant_conv_mu.conv.bias holds NaN" in error_of(capsys, tmp_path / "nan.pt", parameters, out)
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds a list with more than tensors" in error_of(capsys, tmp_path / "list.pt", parameters, out)
    (tmp_path / "text.pt").write_text("no checkpoint")
    assert "is damaged" in error_of(capsys, tmp_path / "text.pt", parameters, out)
    assert "No such file or directory" in error_of(capsys, tmp_path / "nowhere.pt", parameters, out)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1]", "not a JSON object"),
        ("{", "not JSON"),
        ('{"in_channels": 2}', "in_channels is 2; expected 1"),
        ('{"spatial_dims": 2}', "spatial_dims is 2; expected 3"),
        ('{"colour": 2}', "has no parameter colour"),
    ],
)
def test_parameters_that_cannot_be_are_one_line(tmp_path, content, says):
    (tmp_path / "params.json").write_text(content)
    with pytest.raises(BundleError, match=says):
        read_parameters(tmp_path / "params.json", "autoencoder_kl")


def test_one_number_of_residual_blocks_is_for_all_levels(tmp_path):
    (tmp_path / "params.json").write_text('{"num_res_blocks": 2, "channels": [32, 64], "norm_float16": true}')
    assert read_parameters(tmp_path / "params.json", "autoencoder_kl")["num_res_blocks"] == [2, 2]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--spacing", "5,4,4"], "--window-hu is not"),
        (["--window-hu=-1000,1000"], "--spacing is not"),
        (["--window-hu=-1000,1000", "--fit", "resize", "--spacing", "5,4,4"], "with --fit resize"),
        (["--window-hu=-1000,1000", "--fit", "stretch"], "expected window or resize"),
        (["--window-hu", "1000", "--fit", "resize"], "expected 2 numbers"),
        (["--window-hu=-1000,1000", "--spacing", "5,4,four"], "expected 3 numbers"),
        (["--window-voxels", "8,16"], "expected 3 numbers"),
        (["--window-voxels", "8,16,23"], "not a multiple of 2"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(tmp_path, parameters, capsys, options, says):
    torch.save(monai_net("autoencoder_kl").state_dict(), tmp_path / "net.pt")
    assert says in error_of(capsys, tmp_path / "net.pt", parameters, tmp_path / "imported", *options)


def test_its_decoder_needs_a_grid_so_none_is_exported_for_mu():
    vae = build_vae("autoencoder_kl", {**PARAMETERS["autoencoder_kl"], "window_voxels": list(WINDOW)})
    assert vae.decoder is not None
    assert mu_decoder_onnx(vae) is None
