"""The axes after which mu is uncorrelated, and the rivals, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from models.statistics.aggregate import aggregate_kl
from models.statistics.pca_whitening import LatentAxes, learn_axes
from models.statistics.redundancy import redundancy
from models.statistics.rivals import composition_and_components, hu_histogram, principal_components

RNG = np.random.default_rng(5)
MU = RNG.standard_normal((90, 6)) @ RNG.standard_normal((6, 6)) + 4.0
SIGMA = 0.3 + 0.2 * RNG.random((90, 6))


def test_on_the_windows_that_it_learned_from_the_code_is_the_prior():
    axes = learn_axes(MU, SIGMA, shrinkage=0.0)
    mu, sigma = axes.of_mu(MU), axes.of_sigma(SIGMA)
    assert aggregate_kl(mu, sigma) == pytest.approx(0.0, abs=1e-9)
    assert redundancy(mu) == pytest.approx((0.0, 6.0), abs=1e-9)
    assert (mu.var(axis=0) < 1).all()


def test_without_a_sigma_it_is_the_whitening_of_scikit_learn():
    made = learn_axes(MU, np.zeros_like(MU), shrinkage=0.0).of_mu(MU)
    theirs = PCA(whiten=True).fit_transform(MU) * np.sqrt(len(MU) / (len(MU) - 1))
    assert np.abs(made) == pytest.approx(np.abs(theirs))


def test_sigma_is_the_exact_marginal_of_the_posterior():
    axes = learn_axes(MU, SIGMA)
    expected = [np.sqrt(np.diag(axes.matrix @ np.diag(one**2) @ axes.matrix.T)) for one in SIGMA]
    assert axes.of_sigma(SIGMA) == pytest.approx(np.array(expected))


def test_a_dimension_of_noise_alone_is_not_blown_up():
    mu = np.column_stack([MU[:, :2], 1e-3 * RNG.standard_normal(90)])
    sigma = np.column_stack([SIGMA[:, :2], np.ones(90)])
    made = learn_axes(mu, sigma).of_mu(mu)
    assert made.var(axis=0)[-1] < 1e-4


def test_few_windows_are_shrunk():
    mu = RNG.standard_normal((40, 32))
    fresh = RNG.standard_normal((4000, 32))
    plain, shrunk = (learn_axes(mu, np.zeros_like(mu), shrinkage=one).of_mu(fresh) for one in (0.0, None))
    assert plain.var(axis=0).max() > 5 > 2 > shrunk.var(axis=0).max()


def test_axes_are_ordered_by_their_score():
    axes = LatentAxes(np.zeros(3), np.diag([1.0, 2.0, 3.0]))
    mu = np.array([[1.0, 1.0, 1.0]])
    assert axes.ordered([0.1, 0.9, 0.5]).of_mu(mu).tolist() == [[2.0, 3.0, 1.0]]


def test_a_dimension_without_any_variance_is_refused():
    with pytest.raises(ValueError, match="no variance"):
        learn_axes(np.ones((9, 2)), np.zeros((9, 2)))


def test_the_histogram_is_numpys():
    windows = RNG.random((3, 4, 5, 6)).astype(np.float32)
    expected = [np.histogram(one, 32, (0, 1))[0] / one.size for one in windows]
    assert hu_histogram(windows) == pytest.approx(np.array(expected))
    assert hu_histogram(np.array([[-1.0, 2.0, 1.0, 0.0]]), 2).tolist() == [[0.5, 0.5]]


def test_components_are_those_of_scikit_learn():
    windows, fresh = (RNG.standard_normal((n, 2, 5, 7)) for n in (12, 4))
    made = principal_components(windows, 5)
    theirs = PCA(5).fit(windows.reshape(12, -1))
    assert np.abs(made(fresh)) == pytest.approx(np.abs(theirs.transform(fresh.reshape(4, -1))), abs=1e-4)
    whole = principal_components(windows, 100)
    assert whole.rebuilt(windows) == pytest.approx(windows, abs=1e-4)
    assert len(whole.axes) == 11


def test_the_composition_has_components_beside_it():
    composition, components = np.ones((4, 15)), np.arange(80.0).reshape(4, 20)
    made = composition_and_components(composition, components)
    assert made.shape == (4, 32)
    assert np.array_equal(made[:, 15:], components[:, :17])
    with pytest.raises(ValueError, match="make no 40"):
        composition_and_components(composition, components, 40)
