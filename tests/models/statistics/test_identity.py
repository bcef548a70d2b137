"""Identity: windows found again in a gallery, and the whitening that helps."""

from __future__ import annotations

import numpy as np
import pytest

from models.statistics.identity import found_again, identity, non_overlapping, whiten

PATIENTS = np.repeat(np.arange(10), 6)


@pytest.fixture(scope="module")
def windows():
    return np.random.default_rng(0).standard_normal((60, 5))


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
