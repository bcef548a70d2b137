"""The terms on all codes together, each against another computation of the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.statistics.repeatability import icc_a1
from models.training.aggregate_losses import aggregate_distance, tile_group, whitened_pairs, within_groups
from models.training.losses import mmd
from models.training.objective import Passed, make_loss_inputs, objective
from models.training.settings import TrainingSettings

RNG = np.random.default_rng(11)


def drawn(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.standard_normal(shape))


def test_the_distance_counts_means_deviations_and_covariances():
    mu = drawn(60, 5) @ drawn(5, 5) + 0.3
    values = mu.numpy()
    covariance = np.cov(values, rowvar=False, bias=True)
    apart = np.square(covariance - np.diag(np.diag(covariance))).sum()
    expected = np.square(values.mean(axis=0)).sum() + np.square(1 - values.std(axis=0)).sum() + apart
    assert aggregate_distance(mu).item() == pytest.approx(expected / 5, rel=1e-3)


def test_the_gradient_of_the_distance_pulls_two_equal_dimensions_apart():
    one = drawn(300, 1)
    mu = torch.cat([one, one + 0.05 * drawn(300, 1)], 1).requires_grad_()
    before = aggregate_distance(mu)
    before.backward()
    moved = (mu - 50.0 * mu.grad).detach()
    assert aggregate_distance(moved) < before
    first, second = (abs(np.corrcoef(x.detach().numpy().T)[0, 1]) for x in (mu, moved))
    assert second < first


def test_a_dimension_that_has_nearly_collapsed_is_pulled_as_much_as_any():
    mu = (drawn(300, 2) * torch.tensor([1e-2, 0.5])).requires_grad_()
    aggregate_distance(mu).backward()
    pulls = (mu.grad * (mu - mu.mean(0))).sum(0) / mu.std(0)
    assert (pulls < 0).all()
    assert pulls[0].abs() > pulls[1].abs()


def test_the_covariance_within_groups_is_the_pooled_one():
    mu, group = drawn(40, 3), torch.from_numpy(np.repeat([0.0, 1.0], [25, 15])[:, None])
    mu[25:] += 100.0
    first, second = mu[:25].numpy(), mu[25:].numpy()
    pooled = (24 * np.cov(first, rowvar=False) + 14 * np.cov(second, rowvar=False)) / 38
    expected = 0.95 * pooled + 0.05 * np.diag(np.diag(pooled)) + 1e-6 * np.eye(3)
    assert within_groups(mu, group).numpy() == pytest.approx(expected)


def test_a_group_of_one_code_has_no_say():
    mu, group = drawn(9, 2), torch.tensor([0.0] * 8 + [1.0], dtype=torch.float64)[:, None]
    assert torch.allclose(within_groups(mu, group), within_groups(mu[:8], group[:8]))


def test_whitened_pairs_are_mahalanobis_distances():
    mu, other = drawn(12, 4), drawn(12, 4)
    root = RNG.standard_normal((4, 4))
    covariance = root @ root.T + np.eye(4)
    apart = (mu - other).numpy()
    squared = np.einsum("ni,ij,nj->n", apart, np.linalg.inv(covariance), apart)
    expected = 0.5 * math.log(squared.mean() / 4 + 1e-3)
    assert whitened_pairs(mu, other, torch.from_numpy(covariance)).item() == pytest.approx(expected)


def test_a_linear_change_of_the_codes_changes_no_pair():
    """So nothing is gained by a smaller mu, nor by copying the axis that repeats best."""
    mu, other, group = drawn(50, 3), drawn(50, 3), torch.zeros(50, 1, dtype=torch.float64)
    change = drawn(3, 3)
    plain = within_groups(mu, group) - 0.05 * torch.diag(within_groups(mu, group).diagonal())
    changed = change.T @ plain @ change
    before, after = whitened_pairs(mu, other, plain), whitened_pairs(mu @ change, other @ change, changed)
    assert after.item() == pytest.approx(before.item())


def test_the_ratio_of_pairs_is_twice_one_minus_icc():
    between, within = drawn(4000, 2), 0.2
    mu, other = (between + within * drawn(4000, 2) for _ in range(2))
    total = torch.diag(torch.full((2,), 1 + within**2, dtype=torch.float64))
    ratio = math.exp(2 * whitened_pairs(mu, other, total).item()) - 1e-3
    icc = icc_a1(np.stack([mu.numpy(), other.numpy()], axis=1)).mean()
    assert ratio == pytest.approx(2 * (1 - icc), rel=0.05)


def test_a_tile_is_known_by_the_air_around_it():
    windows = torch.zeros(4, 1, 3, 20, 20)
    windows[0] = 0.5
    windows[1, :, :, 4:14, 5:15] = 0.5  # a quarter of the plane
    windows[2, :, 1, 0, 0] = windows[2, :, 2, 19, 19] = 0.1  # noise to the edges
    assert tile_group(windows).squeeze(1).tolist() == [0.0, 1.0, 0.0, 1.0]


SETTINGS = TrainingSettings(
    steps=1,
    aggregate=0.3,
    mmd=2.0,
    kl_scale="latent",
    free_bits_nats=0.0,
    invariance=0.2,
    invariance_scale="whitened",
)


def test_the_loss_has_the_terms_on_all_codes_with_their_weights():
    mu, logvar, z = drawn(16, 3).float(), drawn(16, 3).float(), drawn(8, 3).float()
    target, made = torch.rand(8, 1, 4, 8, 8), torch.rand(8, 1, 4, 8, 8)
    target[:3, ..., :4] = 0.0  # tiles
    rows = make_loss_inputs(Passed(mu, logvar, z, made), target, SETTINGS)
    assert rows.group.squeeze(1).tolist() == [1.0] * 3 + [0.0] * 5

    parts = objective(rows, SETTINGS, voxels=256, kl_weight=0.01, dataset=50)
    kl = 0.5 * (mu[:8] ** 2 + logvar[:8].exp() - logvar[:8] - 1).mean(0).sum()
    squared = (made - target).square().mean()
    expected = 0.5 * (1 + squared.log() + math.log(2 * math.pi)) + 0.01 * kl / 3
    expected += 0.3 * aggregate_distance(mu) + 2.0 * mmd(z)
    expected += 0.2 * whitened_pairs(mu[:8], mu[8:], within_groups(mu, torch.cat([rows.group] * 2)))
    torch.testing.assert_close(parts.loss, expected)
    torch.testing.assert_close(parts.aggregate, aggregate_distance(mu))
