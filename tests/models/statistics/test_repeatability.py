"""Repeatability against worked examples and other implementations."""

from __future__ import annotations

import numpy as np
import pytest

from models.statistics.repeatability import icc_a1, repeatability
from models.statistics.units import ACTIVE_VARIANCE

# Shrout and Fleiss 1979, table 2: four judges, six targets. ICC(2,1), which McGraw and Wong call ICC(A,1), is 0.29.
JUDGES = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
PATIENTS = np.repeat(np.arange(10), 6)


@pytest.fixture(scope="module")
def windows():
    return np.random.default_rng(0).standard_normal((60, 5))


def test_icc_is_that_of_the_published_example():
    assert icc_a1(JUDGES) == pytest.approx(0.2898, abs=5e-5)


def test_icc_is_that_of_an_analysis_of_variance_by_least_squares():
    """The mean squares from the residuals of nested linear models, as a statistics package gets them."""
    ratings = np.random.default_rng(0).standard_normal((9, 3)) + np.arange(9)[:, None] / 3 + [0, 0.5, 2]
    n, k = ratings.shape
    row, column = np.repeat(np.arange(n), k), np.tile(np.arange(k), n)
    design = {"rows": np.eye(n)[row], "columns": np.eye(k)[column], "": np.ones((n * k, 1))}

    def residual(*factors):
        x = np.concatenate([design[""], *(design[one] for one in factors)], axis=1)
        return np.square(ratings.ravel() - x @ np.linalg.lstsq(x, ratings.ravel())[0]).sum()

    both = residual("rows", "columns")
    mse = both / ((n - 1) * (k - 1))
    msr, msc = (residual("columns") - both) / (n - 1), (residual("rows") - both) / (k - 1)
    assert icc_a1(ratings) == pytest.approx((msr - mse) / (msr + (k - 1) * mse + k * (msc - mse) / n))


def test_icc_of_many_dimensions_is_that_of_each():
    many = np.random.default_rng(0).standard_normal((12, 3, 4, 2))
    assert icc_a1(many)[2, 1] == pytest.approx(icc_a1(many[:, :, 2, 1]))


def test_a_constant_shift_is_a_disagreement(windows):
    assert icc_a1(np.stack([windows, windows], axis=1)) == pytest.approx(1)
    assert (icc_a1(np.stack([windows, windows + 1], axis=1)) < 0.8).all()


def test_one_window_has_no_icc():
    with pytest.raises(ValueError, match="two of each"):
        icc_a1(np.ones((1, 2)))


def test_icc_is_the_true_part_of_the_variance():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((20000, 1)) * 3
    assert icc_a1(truth + rng.standard_normal((20000, 2))) == pytest.approx(0.9, abs=0.01)


def test_the_minimal_detectable_change_holds_95_percent_of_differences(windows):
    rng = np.random.default_rng(0)
    base = rng.standard_normal((3000, 2)) * 5
    changed = {name: base + rng.standard_normal(base.shape) for name in "abc"}
    found = repeatability(base + rng.standard_normal(base.shape), changed, np.arange(3000), resamples=2)
    assert found.within_sd == pytest.approx(1, abs=0.03) and found.between_sd == pytest.approx(5, rel=0.05)
    differences = np.abs(changed["a"] - changed["b"])
    assert (differences < found.minimal_detectable_change).mean() == pytest.approx(0.95, abs=0.01)


def test_a_dead_dimension_counts_as_zero(windows):
    features = windows * [1, 1, 1, 0.05, 0]
    found = repeatability(features, {"none": features}, PATIENTS, dead_variance=ACTIVE_VARIANCE)
    assert found.icc["none"].tolist() == pytest.approx([1, 1, 1, 0, 0])
    assert found.mean.value == pytest.approx(0.6) and found.dead.tolist() == [False] * 3 + [True] * 2


def test_without_a_threshold_only_a_constant_dimension_is_dead(windows):
    features = windows * [1, 1, 1, 1e-3, 0] + [0, 0, 0, 0, 0.3]
    assert repeatability(features, {"none": features}, PATIENTS).icc["none"].tolist() == pytest.approx([1, 1, 1, 1, 0])


def test_each_change_has_its_own_icc_and_interval(windows):
    rng = np.random.default_rng(0)
    changed = {
        "little": windows + 0.1 * rng.standard_normal(windows.shape),
        "much": windows + rng.standard_normal((60, 5)),
    }
    found = repeatability(windows, changed, PATIENTS)
    assert found.mean_icc["little"].value > 0.95 > 0.7 > found.mean_icc["much"].value
    assert found.mean_icc["much"].low < found.mean_icc["much"].value < found.mean_icc["much"].high
    assert found.mean.value == pytest.approx(np.mean([found.mean_icc[name].value for name in changed]))


def test_a_dimension_is_dead_by_its_own_scale_and_not_by_that_of_others():
    reference = np.random.default_rng(0).standard_normal((24, 2)) * (1e-3, 1e9)
    found = repeatability(reference, {"none": reference}, np.arange(24) // 2, resamples=0)
    assert not found.dead.any() and found.icc["none"] == pytest.approx([1, 1])
