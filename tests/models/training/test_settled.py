"""The head of mu that is solved for, beside the same by rows of data and least squares; and what learns afterwards."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from models.networks.registry import build_vae
from models.training.objective import VaeForward
from models.training.settings import TrainingSettings
from models.training.settled import _RIDGE, best_directions, principal_scores, settle_mu
from models.training.whitening import drawn_views, fed_by_z
from tests.support.bundles import SMALL_CT_VAE

RNG = np.random.default_rng(0)


def drawn(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.standard_normal(shape))


@pytest.mark.parametrize("steadiness", [0.0, 2.0])
def test_the_directions_are_those_of_reduced_rank_regression_with_the_penalties_as_rows_of_data(steadiness):
    read, held = drawn(2, 40, 6), drawn(40, 5)
    found = read.flatten(0, 1) @ best_directions(read, held, 3, steadiness)
    every = (read.flatten(0, 1) - read.flatten(0, 1).mean(0)).numpy()
    apart = (read[0] - read[1]).numpy()
    rows = np.concatenate([every, np.sqrt(80 * _RIDGE) * np.eye(6), np.sqrt(steadiness) * apart])
    expected = np.zeros((len(rows), 5))
    expected[:80] = np.tile((held - held.mean(0)).numpy(), (2, 1))
    slopes = np.linalg.lstsq(rows, expected, rcond=None)[0]
    axes = np.linalg.svd(rows @ slopes, full_matrices=False)[2][:3].T
    ours, theirs = (np.linalg.qr(codes - codes.mean(0))[0] for codes in (found.numpy(), every @ slopes @ axes))
    assert np.linalg.svd(ours.T @ theirs, compute_uv=False) == pytest.approx(np.ones(3), abs=1e-9)
    assert np.cov(found.numpy(), rowvar=False, ddof=0) == pytest.approx(np.eye(3), abs=1e-9)


def test_what_differs_between_views_is_avoided_the_more_the_steadier_it_is_to_be():
    signal, nuisance = drawn(400, 3), drawn(2, 400, 3)
    read = torch.cat([signal.repeat(2, 1, 1) + 0.7 * nuisance, nuisance], 2)  # the second half tells what to subtract
    shares = []
    for steadiness in (0.0, 1.0, 100.0):
        codes = read @ best_directions(read, signal, 3, steadiness)
        shares.append(float((codes[0] - codes[1]).square().mean() / 2))
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] < 0.05


def test_components_are_weighed_by_the_root_of_their_deviation():
    images = drawn(30, 50) * torch.linspace(3, 0.1, 50)
    expected = PCA(4).fit_transform(images.numpy())
    expected /= np.sqrt(expected.std(axis=0))
    expected /= np.sqrt(np.square(expected).sum(axis=1).mean())
    found = principal_scores(images, 4).numpy()
    assert np.abs(found) == pytest.approx(np.abs(expected), abs=1e-9)


def test_settling_gives_uncorrelated_codes_and_the_decoder_follows():
    settings = TrainingSettings(steps=2, invariance=0.1, shift=1.0, encoder_until=0.5)
    scans = [RNG.random((6, 10, 18, 18), np.float32) ** power for power in (0.5, 1.0, 2.0, 4.0)]
    vae = build_vae("ct_vae", SMALL_CT_VAE).eval()
    settled = copy.deepcopy(vae)
    settle_mu(settled, scans, settings, windows=64)
    views = torch.cat([seen for seen, _ in drawn_views(vae, scans, settings, 64)])
    with torch.no_grad():
        before, after = (network.encode(views)[0] for network in (vae, settled))
        guess = LinearRegression().fit(after, before).predict(after)
        for layer, led in zip(fed_by_z(vae), fed_by_z(settled), strict=True):
            assert led(after).numpy() == pytest.approx(layer(torch.from_numpy(guess)).numpy(), abs=1e-4)
    assert torch.cov(after.T).numpy() == pytest.approx(np.eye(4), abs=0.02)
    assert torch.equal(next(settled.stages.parameters()), next(vae.stages.parameters()))


def test_once_it_is_settled_decoder_description_and_sigma_learn_and_mu_does_not():
    network = VaeForward(build_vae("ct_vae", SMALL_CT_VAE))
    network.settled = True
    passed = network(torch.rand(4, 1, 8, 16, 16), torch.randn(4, 4))
    (passed.reconstruction.mean() + passed.description.mean() + passed.logvar.mean()).backward()
    learning = {name.partition(".")[0] for name, weight in network.vae.named_parameters() if weight.grad is not None}
    assert learning == {"decoder", "describer", "logvar"}
