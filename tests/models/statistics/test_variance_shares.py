"""Shares of the variance, on made features whose shares are known, and beside other people's arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from models.statistics.variance_shares import variance_shares

PARTS = (0.5, 0.3, 0.2)


def table(seed: int, patients: int, series: int, settings: int, k: int = 16, parts: tuple[float, ...] = PARTS):
    """Features, patients and settings drawn at random; and the acquisition's variance that was drawn."""
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(patients), series)
    level = rng.integers(0, settings, len(of))
    effects = np.sqrt(parts[1]) * rng.standard_normal((settings, k))
    x = np.sqrt(parts[0]) * rng.standard_normal((patients, k))[of] + effects[level]
    return x + np.sqrt(parts[2]) * rng.standard_normal(x.shape), of, level, float(effects.var(axis=0, ddof=1).mean())


def test_the_shares_that_features_were_made_of_are_found():
    found = variance_shares(*table(0, patients=200, series=3, settings=30)[:3])
    assert [one.value for one in found[:3]] == pytest.approx(PARTS, abs=0.04)
    assert sum(one.value for one in found[:3]) == pytest.approx(1)
    assert (found.patients, found.settings) == (200, 30)


def test_settings_without_an_effect_get_none_of_the_variance():
    found = variance_shares(*table(1, patients=100, series=3, settings=5, parts=(0.6, 0.0, 0.4))[:3])
    assert found.acquisition.value < 0.01 and found.acquisition.low == 0
    assert found.patient.value == pytest.approx(0.6, abs=0.05)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    hits = np.zeros(3)
    for seed in range(40):
        x, of, level, acquisition = table(seed, patients=15, series=3, settings=4, k=8)
        truth = np.array([PARTS[0], acquisition, PARTS[2]])
        truth /= truth.sum()
        hits += [
            one.low <= true <= one.high for one, true in zip(variance_shares(x, of, level)[:3], truth, strict=True)
        ]
    assert (hits >= 34).all(), hits


def test_without_settings_all_that_differs_within_patients_is_the_acquisitions():
    x, of, level, _ = table(2, patients=150, series=3, settings=30)
    alone, both = variance_shares(x, of), variance_shares(x, of, level)
    assert alone.rest is None
    assert alone.acquisition.value == pytest.approx(both.acquisition.value + both.rest.value, abs=0.02)


def test_settings_that_no_patient_has_twice_and_no_two_patients_share_are_not_told_from_the_rest():
    x, of, _, _ = table(3, patients=20, series=2, settings=5)
    found = variance_shares(x, of, np.arange(len(of)))
    assert found.rest is None and found.acquisition.value == pytest.approx(variance_shares(x, of).acquisition.value)


def test_patients_with_one_series_do_not_count_and_fewer_than_three_others_are_too_few():
    x, of, level, _ = table(4, patients=12, series=2, settings=3)
    singles = np.concatenate([of, 100 + np.arange(50)])
    more = np.concatenate([x, 9 + np.zeros((50, x.shape[1]))])
    found = variance_shares(more, singles, np.concatenate([level, np.zeros(50, int)]))
    assert found == variance_shares(x, of, level)
    assert variance_shares(x[:4], of[:4], level[:4]) is None


def test_a_balanced_table_gives_the_mean_squares_of_the_textbook():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((6, 1, 1)) + rng.standard_normal((1, 4, 1)) + rng.standard_normal((6, 4, 1))
    rows, columns, left = x.mean(axis=1), x.mean(axis=0), x - x.mean(axis=1, keepdims=True) - x.mean(axis=0) + x.mean()
    error = np.square(left).sum() / (5 * 3)
    parts = np.array([rows.var(ddof=1) - error / 4, columns.var(ddof=1) - error / 6, error])
    of, level = np.repeat(np.arange(6), 4), np.tile(np.arange(4), 6)
    found = variance_shares(x.reshape(24, 1), of, level)
    assert [one.value for one in found[:3]] == pytest.approx(parts / parts.sum(), rel=1e-9)


def test_an_unbalanced_table_gives_the_sums_of_squares_of_statsmodels():
    """`anova_lm(ols("x ~ C(patient) + C(setting)").fit(), typ=1)` of statsmodels 0.15.0 gave the three of them."""
    of = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 5, 5, 5])
    level = np.array([0, 1, 2, 0, 2, 1, 1, 3, 0, 3, 2, 2, 0, 1, 3, 3, 1])
    x = [0.288, 1.118, -0.291, -0.124, -0.06, 1.012, -0.008, -0.937, -1.183, -1.97, -2.156, -1.353, -1.046, 0.619]
    x = np.array([*x, -1.348, -1.519, -1.312])[:, None]
    of_patients, of_settings, left = 10.457404, 3.796030, 1.963400

    patients, settings = np.eye(6)[of], np.eye(4)[level]
    by_patient, mean = patients @ np.linalg.pinv(patients), np.full((17, 17), 1 / 17)
    rest = left / (17 - 6 - 3)
    acquisition = (of_settings - 3 * rest) / np.trace(settings.T @ (np.eye(17) - by_patient) @ settings)
    shared = np.trace(settings.T @ (by_patient - mean) @ settings)
    patient = (of_patients - 5 * rest - shared * acquisition) / np.trace(patients.T @ (by_patient - mean) @ patients)
    expected = np.maximum(0, [patient, acquisition, rest])
    found = variance_shares(x, of, level)
    assert [one.value for one in found[:3]] == pytest.approx(expected / expected.sum(), rel=1e-5)
