"""The head of mu that is solved for: it predicts the mu before, and moves less when only the view changes."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from models.networks.registry import build_vae
from models.training.settings import TrainingSettings
from models.training.steady import solved, steady_head
from models.training.train import train
from models.training.whitening import drawn_views, training_axes, with_axes
from tests.support.bundles import SMALL_CT_VAE

SETTINGS = TrainingSettings(steps=2, invariance=0.1, shift=2.0, blur=1.0, tile=0.5, steadiness=20.0)
LATENTS = 4


@pytest.fixture(scope="module")
def scans() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((6, 12, 20, 20), np.float32) ** power for power in (0.5, 1.0, 2.0, 4.0)]


@pytest.fixture(scope="module")
def vae() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_vae("ct_vae", SMALL_CT_VAE | {"whitened": True, "latents": LATENTS}).eval()


@pytest.fixture(scope="module")
def steadied(vae, scans):
    made = copy.deepcopy(vae)
    return made, steady_head(made, scans, SETTINGS, windows=64)


def two_views(vae, scans) -> tuple[torch.Tensor, torch.Tensor]:
    views = [seen for seen, _ in drawn_views(vae, scans, replace(SETTINGS, tile=0.0), 64)]
    return tuple(torch.cat([seen.reshape(2, -1, *seen.shape[1:])[at] for seen in views]) for at in (0, 1))


def test_without_a_weight_it_is_scikit_learns_ridge():
    rng = np.random.default_rng(1)
    read = rng.standard_normal((2, 40, 6)) * [1, 2, 3, 4, 5, 6] + 3
    wanted = rng.standard_normal((40, 2))
    weight, bias = solved(torch.from_numpy(read), torch.from_numpy(wanted), 0.0)
    every = read.reshape(80, 6)
    scaled = (every - every.mean(0)) / every.std(0, ddof=1)
    theirs = Ridge(alpha=0.1 * 80).fit(scaled, np.concatenate([wanted, wanted]))
    assert every @ weight.numpy().T + bias.numpy() == pytest.approx(theirs.predict(scaled))


def test_what_one_view_alone_tells_is_dropped():
    generator = torch.Generator().manual_seed(2)
    shared, own = (torch.randn(shape, generator=generator).double() for shape in ((1, 500, 1), (2, 500, 1)))
    read = torch.cat([shared.expand(2, -1, -1), own], 2)
    wanted = read[0].sum(1, keepdim=True)
    moved = {}
    for steadiness in (0.0, 100.0):
        weight, bias = solved(read, wanted, steadiness)
        mu = read @ weight.T + bias
        moved[steadiness] = float((mu[0] - mu[1]).square().mean() / mu[0].var())
        assert np.corrcoef(mu[0, :, 0], shared[0, :, 0])[0, 1] > 0.85
    assert moved[100.0] < 0.01 < 0.1 < moved[0.0]


@torch.no_grad()
def test_mu_moves_less_between_views_and_is_still_the_mu_before(vae, scans, steadied):
    first, second = two_views(vae, scans)
    apart, codes = [], []
    for network in (vae, steadied[0]):
        mu, other = network.encode(first)[0], network.encode(second)[0]
        apart.append(float(((mu - other).square().mean(0) / mu.var(0)).mean()))
        codes.append(mu)
    assert apart[1] < 0.7 * apart[0]
    for before, after in zip(codes[0].T, codes[1].T, strict=True):
        assert np.corrcoef(before, after)[0, 1] > 0.5
    assert torch.equal(next(steadied[0].stages.parameters()), next(vae.stages.parameters()))


@torch.no_grad()
def test_sigma_is_the_marginal_of_both_maps_together(vae, scans, steadied):
    made, mapped = steadied
    final = with_axes(made, training_axes(made, scans, SETTINGS, windows=64), mapped)
    axes = training_axes(made, scans, SETTINGS, windows=64)
    window, _ = two_views(vae, scans)
    both = axes.matrix @ mapped
    expected = [np.diag(both @ np.diag(one) @ both.T) for one in vae.encode(window)[1].exp().double().numpy()]
    assert final.encode(window)[1].exp().numpy() == pytest.approx(np.array(expected), rel=1e-4)


@torch.no_grad()
def test_the_axes_have_the_scale_of_windows_as_they_are(scans, steadied):
    made, _ = steadied
    final = with_axes(made, training_axes(made, scans, SETTINGS, windows=240))
    whole = torch.cat([torch.from_numpy(scan[:, None, 2:10, 2:18, 2:18]) for scan in scans])
    mu, logvar = final.encode(whole)
    assert (mu.var(0) + logvar.exp().mean(0)).numpy() == pytest.approx(np.ones(LATENTS), abs=0.35)


def test_it_needs_two_views_and_a_network_that_can_be_whitened(scans):
    with pytest.raises(ValueError, match="expected two views"):
        TrainingSettings(steps=1, steadiness=1.0)
    settings = replace(SETTINGS, parameters=SMALL_CT_VAE, steps=1)
    with pytest.raises(ValueError, match="cannot be whitened, so expected 0"):
        train(scans, settings)
