"""Repeatability, identity, units and reconstruction against worked examples and other implementations."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from models.statistics.image_error import absolute_errors, psnr, ssim
from models.statistics.repeatability import (
    ACTIVE_VARIANCE,
    active_units,
    correlation,
    found_again,
    icc_a1,
    identity,
    kl_by_dimension,
    non_overlapping,
    repeatability,
    whiten,
)

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


def test_unchanged_windows_are_found_and_random_ones_at_chance(windows):
    rng = np.random.default_rng(0)
    assert identity(windows, windows, PATIENTS).top1.value == 1
    hits = [found_again(rng.standard_normal((20, 3)), rng.standard_normal((20, 3))).mean() for _ in range(200)]
    assert np.mean(hits) == pytest.approx(identity(windows[:20], windows[:20], PATIENTS[:20]).chance, abs=0.01)


def test_the_gallery_is_what_is_searched(windows):
    chosen = np.arange(0, 60, 6)
    found = identity(windows, windows + 1e-3, PATIENTS, gallery=chosen)
    assert (found.gallery, found.chance, found.top1.value) == (10, 0.1, 1)


def test_distractors_are_in_the_gallery_and_are_not_looked_for(windows):
    moved = windows[:10] + 0.01
    found = identity(windows[:10], moved, PATIENTS[:10], distractors=moved[:5])
    assert (found.gallery, found.chance, found.top1.value) == (15, 1 / 15, 0.5)


def test_features_that_are_all_the_same_find_nothing():
    assert not found_again(np.ones((5, 3)), np.ones((5, 3))).any()


def test_metrics_forgive_what_they_are_blind_to(windows):
    wide = windows * [1, 1, 1, 1, 1000]
    noisy = wide + np.random.default_rng(0).standard_normal(wide.shape) * [0, 0, 0, 0, 1500]
    assert found_again(windows, 3 * windows, metric="cosine").all()
    assert not found_again(windows, 3 * windows).all()
    euclidean, whitened = (
        found_again(wide, noisy).mean(),
        found_again(wide, noisy, metric="whitened", whitening=whiten(wide)).mean(),
    )
    assert whitened > euclidean + 0.2


def test_a_whitened_distance_needs_its_whitening(windows):
    with pytest.raises(ValueError, match="learned on other patients"):
        found_again(windows, windows, metric="whitened")


def test_whitened_features_have_unit_covariance():
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((4000, 6)) @ rng.standard_normal((6, 6)) * [1, 10, 100, 1, 1, 1] + 5
    assert np.cov(whiten(mixed)(mixed).T) == pytest.approx(np.eye(6), abs=0.1)


def test_a_constant_feature_does_not_spoil_the_whitening(windows):
    constant = windows.copy()
    constant[:, 2] = 4
    assert np.isfinite(whiten(constant)(constant)).all()


def test_windows_of_the_gallery_do_not_overlap():
    low = np.array([0, 50, 100, 150, 0, 60, 99.99999999])
    chosen = non_overlapping(low, low + 100, ["a", "a", "a", "a", "b", "b", "b"])
    assert chosen.tolist() == [0, 2, 4, 6]


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


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    original = rng.uniform(-1000, 1000, (3, 10, 12, 14))
    return original, original + rng.normal(0, 80, original.shape)


def test_ssim_is_monais(pictures):
    original, made = pictures
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.metrics.regression import compute_ssim_and_cs
    theirs, _ = compute_ssim_and_cs(
        *(torch.from_numpy(one)[:, None] for one in (made, original)),
        spatial_dims=3,
        kernel_size=(7, 7, 7),
        kernel_sigma=(1.5,) * 3,
        data_range=2000.0,
        kernel_type="uniform",
    )
    assert ssim(original, made, 2000) == pytest.approx(theirs.mean(dim=(1, 2, 3, 4)).numpy(), abs=1e-6)


def test_a_window_smaller_than_the_cube_has_an_ssim(pictures):
    original, made = (one[:, :4] for one in pictures)
    assert (ssim(original, made, 2000) < 1).all() and ssim(original, original, 2000) == pytest.approx(1)


def test_psnr_of_a_constant_error():
    assert psnr(np.zeros((1, 2, 2, 2)), np.full((1, 2, 2, 2), 20.0), 2000) == pytest.approx([40])


def test_errors_are_counted_by_the_tissue_of_the_original():
    original = np.array([-1000.0, -700, -100, 40, 500, -400]).reshape(1, 1, 2, 3)
    errors = absolute_errors(original, original + np.array([1.0, 2, 3, 4, 5, 6]).reshape(1, 1, 2, 3))
    assert {name: value.tolist() for name, value in errors.items()} == {
        "all": [3.5],
        "air": [1],
        "lung": [2],
        "fat": [3],
        "soft": [4],
        "bone": [5],
    }


def test_a_tissue_that_is_not_there_has_no_error():
    assert np.isnan(absolute_errors(np.zeros((1, 2, 2, 2)), np.ones((1, 2, 2, 2)))["bone"]).all()


def test_a_dimension_is_dead_by_its_own_scale_and_not_by_that_of_others():
    reference = np.random.default_rng(0).standard_normal((24, 2)) * (1e-3, 1e9)
    found = repeatability(reference, {"none": reference}, np.arange(24) // 2, resamples=0)
    assert not found.dead.any() and found.icc["none"] == pytest.approx([1, 1])
