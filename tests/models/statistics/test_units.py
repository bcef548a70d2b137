"""Units in use, their KL and their correlation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from models.statistics.units import active_units, correlation, kl_by_dimension


@pytest.fixture(scope="module")
def windows():
    return np.random.default_rng(0).standard_normal((60, 5))


def test_kl_is_that_of_torch():
    rng = np.random.default_rng(0)
    mu, sigma = rng.standard_normal((7, 3)), rng.uniform(0.1, 2, (7, 3))
    normal = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(
        normal(torch.from_numpy(mu), torch.from_numpy(sigma)), normal(torch.zeros(7, 3), torch.ones(7, 3))
    )
    assert kl_by_dimension(mu, sigma) == pytest.approx(theirs.mean(0).numpy(), rel=1e-6)


def test_units_that_hardly_move_are_not_active(windows):
    assert active_units(windows * [1, 1, 0.2, 0.05, 0]) == 3


def test_correlation_is_pearsons_and_zero_with_a_constant(windows):
    features = np.concatenate([windows, windows[:, :1] + windows[:, 1:2], np.ones((60, 1))], axis=1)
    matrix = correlation(features)
    assert matrix[0, 5] == pytest.approx(stats.pearsonr(features[:, 0], features[:, 5])[0])
    assert matrix[6, :6].tolist() == [0] * 6 and np.array_equal(np.diag(matrix), np.ones(7))
