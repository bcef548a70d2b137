"""Other axes of the latents change nothing but the axes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from models.bundle.export import encoder_onnx
from models.networks.registry import build_vae
from models.spec import BundleError
from models.statistics.aggregate import aggregate_kl
from models.statistics.pca_whitening import LatentAxes, learn_axes
from models.training.last_steps import parameters_of
from models.training.whitening import can_be_whitened, with_axes
from tests.support.bundles import SMALL_CT_VAE

SMALL = SMALL_CT_VAE | {"latents": 5}


@pytest.fixture(scope="module")
def windows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(24, 1, 8, 16, 16, generator=generator) * torch.rand(24, 1, 1, 1, 1, generator=generator)


@pytest.fixture(scope="module")
def both(windows):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = build_vae("ct_vae", SMALL | {"whitened": True}).eval()
    with torch.no_grad():
        mu, logvar = (head.numpy() for head in vae.encode(windows))
    axes = learn_axes(mu, np.exp(0.5 * logvar), shrinkage=0.0)
    return vae, axes, with_axes(vae, axes)


@torch.no_grad()
def test_what_is_made_of_z_is_the_same(both):
    vae, axes, made = both
    z = torch.randn(7, 5, generator=torch.Generator().manual_seed(2)) * 3
    moved = torch.from_numpy(axes.of_mu(z.numpy())).float()
    assert made.decode(moved).numpy() == pytest.approx(vae.decode(z).numpy(), abs=1e-5)
    assert made.describe(moved).numpy() == pytest.approx(vae.describe(z).numpy(), abs=1e-4)


@torch.no_grad()
def test_mu_and_sigma_are_those_of_the_axes(both, windows):
    vae, axes, made = both
    (mu, logvar), (new_mu, new_logvar) = vae.encode(windows), made.encode(windows)
    assert new_mu.numpy() == pytest.approx(axes.of_mu(mu.numpy()), abs=1e-4)
    expected = axes.of_sigma(np.exp(0.5 * logvar.numpy()))
    assert np.exp(0.5 * new_logvar.numpy()) == pytest.approx(expected, rel=1e-4)
    assert made.taps(windows, ("sigma",))["sigma"].numpy() == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_the_aggregate_posterior_is_the_prior(both, windows):
    mu, logvar = (head.numpy().astype(np.float64) for head in both[2].encode(windows))
    assert aggregate_kl(mu, np.exp(0.5 * logvar)) == pytest.approx(0.0, abs=1e-4)


@torch.no_grad()
def test_the_exported_encoder_has_the_new_axes(both, windows):
    made = both[2]
    session = onnxruntime.InferenceSession(encoder_onnx(made), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    mu, sigma = session.run(["mu", "sigma"], {name: windows[:1].numpy()})
    expected_mu, expected_logvar = made.encode(windows[:1])
    assert mu == pytest.approx(expected_mu.numpy(), abs=1e-4)
    assert sigma == pytest.approx(np.exp(0.5 * expected_logvar.numpy()), rel=1e-4)


@torch.no_grad()
def test_axes_upon_axes_give_the_variance_of_the_second(both, windows):
    _, _, made = both
    mu, logvar = (head.numpy().astype(np.float64) for head in made.encode(windows))
    turned = learn_axes(mu[:12], np.exp(0.5 * logvar[:12]))
    twice = with_axes(made, turned)
    expected = turned.of_sigma(np.exp(0.5 * logvar))
    assert np.exp(0.5 * twice.encode(windows)[1].numpy()) == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_the_longest_axes_alone_are_the_same_with_the_others_at_the_centre(both, windows):
    vae, _, _ = both
    mu, logvar = (head.numpy().astype(np.float64) for head in vae.encode(windows))
    every, three = (learn_axes(mu, np.exp(0.5 * logvar), shrinkage=0.0, count=count) for count in (None, 3))
    assert three.matrix == pytest.approx(every.matrix[:3])
    made, whole = with_axes(vae, three), with_axes(vae, every)
    assert made.encode(windows)[0].numpy() == pytest.approx(whole.encode(windows)[0][:, :3].numpy(), abs=1e-5)
    assert made.encode(windows)[1].numpy() == pytest.approx(whole.encode(windows)[1][:, :3].numpy(), abs=1e-4)
    z = torch.randn(7, 3, generator=torch.Generator().manual_seed(3))
    at_centre = torch.cat([z, torch.zeros(7, 2)], 1)
    assert made.decode(z).numpy() == pytest.approx(whole.decode(at_centre).numpy(), abs=1e-5)
    assert made.describe(z).numpy() == pytest.approx(whole.describe(at_centre).numpy(), abs=1e-4)
    assert vae.mu.out_features == 5 and made.mu.out_features == 3


@torch.no_grad()
def test_a_network_of_fewer_axes_is_built_from_its_parameters_and_tuned_like_any(both, windows):
    vae, axes, _ = both
    made = with_axes(vae, LatentAxes(axes.centre, axes.matrix[:3]))
    given = SMALL | {"whitened": True}
    parameters = parameters_of(made, given)
    assert parameters == given | {"latents": 3, "learned_latents": 5} and parameters_of(vae, given) is given
    built = build_vae("ct_vae", parameters).eval()
    built.load_state_dict(made.state_dict())
    assert all(torch.equal(*pair) for pair in zip(built.encode(windows), made.encode(windows), strict=True))
    mu, logvar = (head.numpy().astype(np.float64) for head in built.encode(windows))
    again = learn_axes(mu, np.exp(0.5 * logvar))
    expected = again.of_sigma(np.exp(0.5 * logvar))
    assert np.exp(0.5 * with_axes(built, again).encode(windows)[1].numpy()) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(BundleError, match="learned_latents is 2"):
        build_vae("ct_vae", parameters | {"learned_latents": 2})


def test_room_for_it_changes_nothing(windows):
    networks = []
    for whitened in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            networks.append(build_vae("ct_vae", SMALL | {"whitened": whitened}).eval())
    with torch.no_grad():
        (mu, logvar), (same_mu, same_logvar) = (vae.encode(windows) for vae in networks)
    assert torch.equal(mu, same_mu)
    assert same_logvar.numpy() == pytest.approx(logvar.numpy(), abs=1e-5)
    assert [can_be_whitened(vae) for vae in networks] == [False, True]
    with pytest.raises(ValueError, match="not linear"):
        with_axes(networks[0], None)
