"""Redundancy, the share of a flag, and the distance from the prior, against closed forms and other computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from models.statistics.aggregate import aggregate_kl, aggregate_kl_null, gaussian_kl
from models.statistics.group_variance import best_split_share, flag_share, split_null, standardised
from models.statistics.redundancy import null_redundancy, redundancy, redundancy_by_patient

RNG = np.random.default_rng(3)


def test_one_dimension_many_times_is_one_dimension():
    x = RNG.standard_normal((50, 1)) * np.array([1.0, -2.0, 5.0, 0.1])
    assert redundancy(x) == pytest.approx((1.0, 1.0))


def test_orthogonal_dimensions_are_as_many_as_there_are():
    x = np.linalg.qr(RNG.standard_normal((60, 9)) - 0.0)[0]
    x = np.linalg.qr(x - x.mean(axis=0))[0]
    assert redundancy(x) == pytest.approx((0.0, 9.0), abs=1e-9)


def test_both_figures_are_those_of_numpys_correlation():
    x = RNG.standard_normal((40, 6)) @ RNG.standard_normal((6, 6))
    matrix = np.corrcoef(x, rowvar=False)
    values = np.linalg.eigvalsh(matrix)
    expected = np.abs(matrix[np.triu_indices(6, 1)]).mean(), values.sum() ** 2 / (values**2).sum()
    assert redundancy(x) == pytest.approx(expected)


@pytest.mark.parametrize(("windows", "r"), [(54, 0.11), (12, 0.245)])
def test_the_null_of_few_windows_is_what_theory_says(windows, r):
    # |r| of two independent Gaussians: r² is Beta(1/2, (n - 2) / 2).
    exact = stats.beta(0.5, (windows - 2) / 2).expect(np.sqrt)
    null = null_redundancy(windows, 32, draws=60)
    assert null.mean_abs_r == pytest.approx(exact, rel=0.02)
    assert null.mean_abs_r == pytest.approx(r, abs=0.005)
    assert null.participation_ratio < 32


def test_many_windows_of_one_patient_count_once():
    patients = np.repeat(np.arange(12), 20)
    per_patient = RNG.standard_normal((12, 5))
    x = per_patient[patients]
    assert redundancy_by_patient(x, patients, draws=5) == pytest.approx(redundancy(per_patient))


def test_a_draw_takes_one_window_of_each_patient():
    x = RNG.standard_normal((240, 5))
    found = redundancy_by_patient(x, np.repeat(np.arange(12), 20))
    assert found.mean_abs_r == pytest.approx(null_redundancy(12, 5).mean_abs_r, abs=0.03)


def test_a_single_window_is_refused():
    with pytest.raises(ValueError, match="two windows"):
        redundancy(np.ones((1, 4)))


def test_the_share_of_a_flag_is_eta_squared():
    flag = np.repeat(["crop", "whole", "slab"], [30, 20, 10])
    x = RNG.standard_normal((60, 4)) + np.array([0.0, 1.0, 3.0, 0.0]) * np.repeat([0, 1, 2], [30, 20, 10])[:, None]
    expected = []
    for column in x.T:
        between = sum((flag == g).sum() * (column[flag == g].mean() - column.mean()) ** 2 for g in np.unique(flag))
        expected.append(between / ((column - column.mean()) ** 2).sum())
    assert flag_share(x, flag) == pytest.approx(np.mean(expected))


def test_features_that_are_the_flag_have_a_share_of_one():
    flag = np.arange(40) % 2 == 0
    assert flag_share(flag[:, None] * np.array([1.0, -3.0]) + 2.0, flag) == pytest.approx(1.0)


def test_a_dimension_that_does_not_vary_has_no_part_in_it():
    x = RNG.standard_normal((20, 2))
    assert standardised(np.column_stack([x, np.full(20, 7.0)])).shape == (20, 2)
    assert flag_share(np.full((20, 3), 7.0), np.arange(20) % 2) == 0.0


def test_the_best_split_finds_two_clusters_and_hardly_more_in_none():
    flag = np.repeat([0, 1], 30)
    x = RNG.standard_normal((60, 8)) + 6.0 * flag[:, None]
    assert best_split_share(x) == pytest.approx(flag_share(x, flag), rel=1e-9)
    none = RNG.standard_normal((60, 8))
    assert best_split_share(none) == pytest.approx(split_null(60, 8, draws=10), abs=0.03)
    assert best_split_share(x) > 2 * split_null(60, 8, draws=10)


def test_one_long_axis_is_no_two_clusters():
    covariance = np.full((8, 8), 0.95) + 0.05 * np.eye(8)
    x = RNG.multivariate_normal(np.zeros(8), covariance, 200)
    share = best_split_share(x)
    assert share > 2 * split_null(200, 8, draws=5)
    assert share == pytest.approx(split_null(200, 8, covariance=covariance, draws=10), abs=0.05)


def test_the_divergence_is_that_of_torchs_gaussians():
    root = RNG.standard_normal((5, 5))
    mean, covariance = RNG.standard_normal(5), root @ root.T + np.eye(5)
    q = torch.distributions.MultivariateNormal(torch.from_numpy(mean), torch.from_numpy(covariance))
    p = torch.distributions.MultivariateNormal(torch.zeros(5, dtype=torch.float64), torch.eye(5, dtype=torch.float64))
    assert gaussian_kl(mean, covariance) == pytest.approx(torch.distributions.kl_divergence(q, p).item())


def test_the_aggregate_posterior_has_the_variance_of_both():
    mu, sigma = RNG.standard_normal((400, 4)) * 0.6 + 0.3, np.full((400, 4), 0.8)
    covariance = np.cov(mu, rowvar=False, bias=True) + 0.64 * np.eye(4)
    assert aggregate_kl(mu, sigma) == pytest.approx(gaussian_kl(mu.mean(axis=0), covariance))
    assert aggregate_kl(mu, sigma) < 0.3


def test_the_same_number_many_times_is_far_from_the_prior():
    mu = RNG.standard_normal((58, 1)) * np.ones((1, 32))
    assert aggregate_kl(mu, np.full((58, 32), 0.1)) > 50 + aggregate_kl_null(58, 32, variance=0.01, draws=20)


def test_the_null_is_what_wishart_matrices_give():
    n, k = 58, 32
    # E log det of a sample covariance of n - 1 degrees of freedom over n, E trace, and E of the mean's square.
    digamma = sum(stats.loggamma.mean((n - 1 - i) / 2) for i in range(k))
    expected = 0.5 * (k * (n - 1) / n + k / n - k - (digamma + k * np.log(2 / n)))
    assert aggregate_kl_null(n, k, draws=400) == pytest.approx(expected, rel=0.02)


def test_a_singular_covariance_is_refused():
    with pytest.raises(ValueError, match="singular"):
        aggregate_kl(RNG.standard_normal((5, 8)), np.zeros((5, 8)))
