from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from models.bundle.export import encoder_onnx, tap_specs
from models.networks.layers import Fold, SamePadConv3d, Unfold
from models.networks.registry import all_parameters, build_vae
from models.networks.vae import Layer, Vae, receptive_fields
from models.spec import BundleError
from models.training.losses import free_bits, kl_divergence, likelihood_nll, voxel_error
from tests.support.checkout import ROOT

SMALL = {
    "question": {"window_voxels": [8, 16, 24], "channels": [3, 4, 5], "dense": 7, "latents": 3},
    "ct_vae": {
        "window_voxels": [8, 16, 24],
        "fold": [2, 2, 4],
        "channels": [8, 16],
        "neck": 4,
        "dense": 16,
        "latents": 4,
    },
}
KERAS = ROOT / "tests" / "data" / "keras_question_small.npz"


def small(architecture: str, seed: int = 0) -> Vae:
    torch.manual_seed(seed)
    return build_vae(architecture, SMALL[architecture]).eval()


@cache
def exported(architecture: str) -> bytes:
    return encoder_onnx(small(architecture))


def window(vae: Vae, n: int = 1) -> torch.Tensor:
    rng = np.random.default_rng(1)
    return torch.from_numpy(rng.random((n, 1, *vae.window_voxels), np.float32))


def encoder_parameters(vae: Vae) -> int:
    return sum(weight.numel() for name, weight in vae.named_parameters() if not name.startswith("decoder"))


def test_the_questions_encoder_has_exactly_the_parameters_of_the_question():
    vae = build_vae("question", {})
    assert encoder_parameters(vae) == 320_096
    assert vae.window_voxels == (32, 256, 256)
    assert {spec.name: spec.shape for spec in tap_specs(vae, None)} == {
        "mu": (32,),
        "sigma": (32,),
        "block1": (16, 16, 128, 128),
        "block2": (32, 8, 64, 64),
        "block3": (64, 4, 32, 32),
        "block4": (32, 2, 16, 16),
        "block5": (16, 1, 8, 8),
        "dense": (256,),
    }


def test_the_questions_network_gives_what_keras_gives_with_the_same_weights():
    keras = np.load(KERAS)
    weights = [torch.from_numpy(keras[f"weight{number}"]) for number in range(12)]
    vae = small("question")
    layers = [module for module in vae.modules() if isinstance(module, (torch.nn.Conv3d, torch.nn.Linear))][:6]
    with torch.no_grad():
        for layer, kernel, bias in zip(layers, weights[::2], weights[1::2], strict=True):
            layer.weight.copy_(kernel.T if kernel.ndim == 2 else kernel.permute(4, 3, 0, 1, 2))
            layer.bias.copy_(bias)
        mu, logvar = vae.encode(torch.from_numpy(keras["voxels"].astype(np.float32) / 255)[None, None])
    np.testing.assert_allclose(mu[0], keras["mu"], atol=1e-6)
    np.testing.assert_allclose(logvar[0], keras["logvar"], atol=1e-6)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_same_padding_is_tensorflows_which_pads_the_odd_voxel_after(kernel):
    rng = np.random.default_rng(2)
    image = rng.standard_normal((3, 4, 5)).astype(np.float32)
    layer = SamePadConv3d(1, 1, kernel)
    expected = np.full(image.shape, layer.conv.bias.item(), np.float64)
    before = (kernel - 1) // 2  # TensorFlow: "SAME", stride 1: pad_total = k - 1, pad_before = pad_total // 2
    weights = layer.conv.weight.detach().numpy()[0, 0].astype(np.float64)
    for at in np.ndindex(image.shape):
        for tap in np.ndindex(weights.shape):
            source = tuple(a + t - before for a, t in zip(at, tap, strict=True))
            if all(0 <= s < size for s, size in zip(source, image.shape, strict=True)):
                expected[at] += weights[tap] * image[source]
    got = layer(torch.from_numpy(image)[None, None])[0, 0].detach().numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_folding_puts_each_patch_into_channels_and_unfolding_undoes_it():
    x = torch.arange(4 * 4 * 6, dtype=torch.float32).reshape(1, 1, 4, 4, 6)
    folded = Fold((2, 2, 3))(x)
    assert folded.shape == (1, 12, 2, 2, 2)
    assert torch.equal(folded[0, :, 1, 0, 1], x[0, 0, 2:4, 0:2, 3:6].flatten())
    assert torch.equal(Unfold((2, 2, 3))(folded), x)


@pytest.mark.parametrize("architecture", sorted(SMALL))
def test_one_forward_pass_gives_the_taps_that_were_asked_for(architecture):
    vae = small(architecture)
    with torch.no_grad():
        mu, logvar = vae.encode(window(vae))
        taps = vae.taps(window(vae), ["sigma", "block1", "mu"])
    assert list(taps) == ["sigma", "block1", "mu"]
    assert torch.equal(taps["mu"], mu)
    assert torch.equal(taps["sigma"], torch.exp(0.5 * logvar))


@pytest.mark.parametrize("architecture", sorted(SMALL))
def test_the_decoder_gives_windows_of_the_encoders_size(architecture):
    vae = small(architecture)
    with torch.no_grad():
        mu, _ = vae.encode(window(vae, 2))
        assert vae.decode(mu).shape == window(vae, 2).shape


@pytest.mark.parametrize("architecture", sorted(SMALL))
def test_the_heads_can_be_negative(architecture):
    vae = small(architecture)
    with torch.no_grad():
        mu, logvar = vae.encode(window(vae, 8))
    assert (mu < 0).any()
    assert (logvar < 0).any()


@pytest.mark.parametrize("architecture", sorted(SMALL))
def test_the_exported_encoder_agrees_with_torch_in_every_tap(architecture):
    import onnxruntime

    vae = small(architecture)
    session = onnxruntime.InferenceSession(exported(architecture), providers=["CPUExecutionProvider"])
    assert [put.name for put in session.get_outputs()] == list(vae.tap_names)
    with torch.no_grad():
        expected = vae.taps(window(vae), vae.tap_names)
    for name, got in zip(vae.tap_names, session.run(None, {"image": window(vae).numpy()}), strict=True):
        np.testing.assert_allclose(got, expected[name].numpy(), atol=1e-5, err_msg=name)


def test_the_exported_encoder_names_no_file_of_the_machine_that_made_it():
    assert b".py" not in exported("ct_vae")
    assert str(ROOT).encode() not in exported("ct_vae")


def test_the_receptive_field_is_what_a_changed_voxel_reaches():
    vae = small("question")
    field = receptive_fields(vae.layers)["block2"]
    x = torch.rand(1, 1, 16, 16, 16, requires_grad=True)
    vae.stages["block2"](vae.stages["block1"](x))[0, :, 1, 1, 1].sum().backward()
    reached = torch.nonzero(x.grad[0, 0])
    extent = (reached.max(0).values - reached.min(0).values + 1).tolist()
    assert all(got <= seen for got, seen in zip(extent, field, strict=True))
    assert field == (7, 7, 7)


def test_the_receptive_field_follows_the_recursion():
    layers = [Layer((4, 8, 8), (4, 8, 8), "stem"), Layer((3, 3, 3), (1, 1, 1)), Layer((2, 2, 2), (2, 2, 2), "next")]
    assert receptive_fields(layers) == {"stem": (4, 8, 8), "next": (16, 32, 32)}


def test_receptive_fields_are_in_mm_and_no_larger_than_the_window():
    specs = {spec.name: spec for spec in tap_specs(small("ct_vae"), (4.0, 2.0, 2.0))}
    assert specs["stem"].receptive_field_mm == (8.0, 4.0, 8.0)
    assert specs["block2"].receptive_field_mm == (32.0, 32.0, 48.0)
    assert specs["mu"].receptive_field_mm is None
    assert specs["block2"].pooling == "mean"


@pytest.mark.parametrize(
    ("architecture", "parameters", "says"),
    [
        ("resnet", {}, "known are autoencoder_kl, autoencoder_kl_maisi, ct_vae, keras, question"),
        ("question", {"colour": 3}, "cannot be built"),
        ("question", {"dense": 0}, "dense is 0"),
        ("question", {"dense": 1e9}, "dense is 1000000000.0"),
        ("question", {"channels": [16, "32"]}, "channels is"),
        ("question", {"channels": []}, "channels is"),
        ("question", {"window_voxels": [31, 256, 256]}, "cannot be halved"),
        ("question", {"window_voxels": [32, 256]}, "expected"),
        ("question", {"heads": 3}, "expected a word"),
        ("question", {"decoder": "no"}, "expected true or false"),
        ("ct_vae", {"window_voxels": [30, 96, 96]}, "not a multiple of its fold"),
        ("ct_vae", {"channels": [12, 20]}, "multiples of 8"),
    ],
)
def test_a_network_that_cannot_be_is_one_clear_line(architecture, parameters, says):
    with pytest.raises(BundleError, match=says) as caught:
        build_vae(architecture, parameters)
    assert "\n" not in str(caught.value)


def test_all_parameters_are_the_defaults_and_what_was_given():
    assert all_parameters("question", {"dense": 8}) == {
        "window_voxels": [32, 256, 256],
        "channels": [16, 32, 64, 32, 16],
        "dense": 8,
        "latents": 32,
        "heads": "linear",
        "decoder": True,
    }


def test_the_likelihood_is_that_of_the_best_fitting_gaussian():
    torch.manual_seed(0)
    target, reconstruction = torch.rand(2, 1, 3, 4, 5), torch.rand(2, 1, 3, 4, 5)
    sigma = (target - reconstruction).square().mean().sqrt()
    log_density = torch.distributions.Normal(reconstruction, sigma).log_prob(target)
    found = likelihood_nll(voxel_error(reconstruction, target, "gaussian"), target[0].numel(), "gaussian")
    assert found.item() == pytest.approx(-log_density.sum().item() / 2, rel=1e-5)


def test_the_kl_is_torchs_own():
    torch.manual_seed(0)
    mu, logvar = torch.randn(5, 3), torch.randn(5, 3)
    posterior, prior = torch.distributions.Normal(mu, (0.5 * logvar).exp()), torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(kl_divergence(mu, logvar), torch.distributions.kl_divergence(posterior, prior))


def test_free_bits_leave_a_small_kl_without_gradient():
    kl = torch.tensor([[0.01, 2.0], [0.03, 4.0]], requires_grad=True)
    loss = free_bits(kl, 0.05)
    loss.backward()
    assert loss.item() == pytest.approx(0.05 + 3.0)
    assert kl.grad.tolist() == [[0.0, 0.5], [0.0, 0.5]]
