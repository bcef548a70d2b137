"""Probes find what is there, find nothing where nothing is, and never see a test patient."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.statistics.label_probes import label_probe
from models.statistics.patients import interval, mean_interval, numbered, patient_folds, sample_counts
from models.statistics.probes import PENALTIES, mean_score, out_of_fold, ridge_path, ridge_probes, score_difference

PATIENTS = np.repeat([f"p{i}" for i in range(12)], 9)


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).standard_normal((108, 32)) * np.linspace(0.1, 50, 32) + 7


@pytest.fixture(scope="module")
def target(features):
    return features @ np.linspace(1, 0.01, 32) + np.random.default_rng(1).standard_normal(108)


@pytest.mark.parametrize("length", [32, 300], ids=["narrow", "wide"])
def test_ridge_is_that_of_scikit_learn_on_standardised_features(length):
    rng = np.random.default_rng(0)
    x, y, at = rng.standard_normal((60, length)) * 3 + 1, rng.standard_normal((60, 2)), rng.standard_normal((9, length))
    path = ridge_path(x, y, np.ones(60), at)
    for penalty, ours in zip(PENALTIES[4:], path[4:], strict=True):
        theirs = make_pipeline(StandardScaler(), Ridge(alpha=60 * penalty)).fit(x, y).predict(at)
        assert np.allclose(ours, theirs, atol=1e-6)


def test_weights_count_a_window_as_often_as_they_say():
    rng = np.random.default_rng(0)
    x, y, at = rng.standard_normal((30, 4)), rng.standard_normal((30, 1)), rng.standard_normal((5, 4))
    times = rng.integers(1, 4, 30)
    repeated = ridge_path(np.repeat(x, times, axis=0), np.repeat(y, times, axis=0), np.ones(times.sum()), at)
    assert np.allclose(ridge_path(x, y, times.astype(float), at), repeated)


def test_a_linear_target_is_found_and_a_shuffled_one_is_not(features, target):
    probe = ridge_probes(features, {"t": target}, PATIENTS)["t"]
    assert probe.score.value > 0.9 and probe.shuffled < 0.05
    assert probe.score.low < probe.score.value < probe.score.high


def test_the_score_is_the_pooled_r2_of_out_of_fold_predictions(features, target):
    probe = ridge_probes(features, {"t": target}, PATIENTS)["t"]
    assert probe.score.value == pytest.approx(r2_score(target, probe.predicted))


def test_a_patients_own_windows_have_no_say_in_its_predictions(features, target):
    predicted = out_of_fold(features, target[:, None], PATIENTS)
    other = target.copy()
    other[PATIENTS == "p3"] += 1000 * np.arange(9)
    alone = out_of_fold(features, other[:, None], PATIENTS, folds=12)
    before = out_of_fold(features, target[:, None], PATIENTS, folds=12)
    assert np.array_equal(alone[PATIENTS == "p3"], before[PATIENTS == "p3"])
    assert not np.array_equal(alone, before) and predicted.shape == (108, 1)


def test_what_only_tells_patients_apart_predicts_nothing_about_another_one():
    """One feature a patient, one target a patient: by window it would be perfect."""
    of = numbered(PATIENTS)
    target = np.random.default_rng(0).standard_normal(12)[of]
    assert ridge_probes(np.eye(12)[of], {"t": target}, PATIENTS)["t"].score.value < 0.05


def test_targets_together_give_what_each_gives_alone(features, target):
    other = np.random.default_rng(3).standard_normal(108)
    together = ridge_probes(features, {"t": target, "o": other}, PATIENTS)
    assert together["o"].score.value == pytest.approx(ridge_probes(features, {"o": other}, PATIENTS)["o"].score.value)


def test_windows_without_a_target_are_left_out(features, target):
    holes = target.copy()
    holes[PATIENTS == "p0"] = np.nan
    holes[50] = np.nan
    probes = ridge_probes(features, {"holes": holes, "all": target}, PATIENTS)
    assert (probes["holes"].windows, probes["holes"].patients, probes["all"].windows) == (98, 11, 108)
    assert np.isnan(probes["holes"].predicted[50])


def test_a_target_that_cannot_be_probed_is_not_in_the_result(features, target):
    lone = np.where(PATIENTS == "p0", target, np.nan)
    assert list(ridge_probes(features, {"flat": np.ones(108), "lone": lone, "t": target}, PATIENTS)) == ["t"]


def test_one_patient_is_too_few(features, target):
    with pytest.raises(ValueError, match="at least two"):
        out_of_fold(features, target[:, None], ["a"] * 108)


def test_equal_seeds_give_equal_probes(features, target):
    one, two = (ridge_probes(features, {"t": target}, PATIENTS)["t"] for _ in range(2))
    assert one.score == two.score and one.shuffled == two.shuffled


def test_a_difference_is_that_of_the_means_and_its_interval_is_paired(features, target):
    noisy = features + np.random.default_rng(5).standard_normal(features.shape) * 0.02
    rng = np.random.default_rng(2)
    targets = {"a": target, "b": rng.standard_normal(108), "c": features[:, 3] + rng.standard_normal(108)}
    good, same, none = (ridge_probes(x, targets, PATIENTS) for x in (features, noisy, rng.standard_normal((108, 4))))
    small, large = score_difference(good, same), score_difference(good, none)
    assert large.value == pytest.approx(mean_score(good).value - mean_score(none).value)
    assert large.low > 0
    assert small.high - small.low < 0.5 * (mean_score(good).high - mean_score(good).low)


def test_features_of_other_windows_are_not_compared(features, target):
    probes = ridge_probes(features, {"t": target}, PATIENTS)
    fewer = ridge_probes(features[9:], {"t": target[9:]}, PATIENTS[9:])
    with pytest.raises(ValueError, match="different windows"):
        score_difference(probes, fewer)


def test_a_label_that_shows_is_found():
    rng = np.random.default_rng(0)
    sex = np.where(numbered(PATIENTS) % 2, "M", "F")
    probe = label_probe(rng.standard_normal((108, 8)) + 2 * (sex == "M")[:, None], sex, PATIENTS)
    assert probe.score.value > 0.95 and 0.2 < probe.shuffled < 0.8 and probe.patients == 12


def test_a_label_that_does_not_show_is_at_chance_however_unbalanced():
    """Leaving one patient out at a time would give 0.15 here."""
    rng = np.random.default_rng(0)
    sex = np.where(numbered(PATIENTS) % 3, "M", "F")
    scores = []
    for _ in range(12):
        own = rng.standard_normal((12, 32))[numbered(PATIENTS)]
        features = own + rng.standard_normal((108, 32))
        scores.append(label_probe(features, sex, PATIENTS, shuffles=0, resamples=2).score.value)
    assert np.mean(scores) == pytest.approx(0.5, abs=0.17)


@pytest.mark.parametrize("labels", [["F"] * 108, ["F"] * 99 + ["M"] * 9, ["F", "M", "X"] * 36, [""] * 108])
def test_other_than_two_classes_of_two_patients_is_no_label_to_probe(labels):
    assert label_probe(np.ones((108, 2)), labels, PATIENTS) is None


def test_windows_without_a_label_are_left_out_of_it():
    sex = np.where(numbered(PATIENTS) % 2, "M", "F")
    sex[:9] = ""
    probe = label_probe(np.random.default_rng(0).standard_normal((108, 3)), sex, PATIENTS, shuffles=1)
    assert probe.windows == 99 and np.isnan(probe.predicted[:9]).all()


def test_each_patient_is_in_one_fold():
    folds = patient_folds(PATIENTS, 5, 0)
    assert len(folds) == 5 and np.array_equal(np.sum(folds, axis=0), np.ones(108))
    assert all(len(set(PATIENTS[fold]) & set(PATIENTS[~fold])) == 0 for fold in folds)


def test_the_interval_of_a_mean_is_that_of_drawing_patients():
    """Against the plain way, patient by patient."""
    values = np.random.default_rng(0).standard_normal(108) + numbered(PATIENTS)
    ours = mean_interval(values, PATIENTS, resamples=400, seed=1)
    plain = [
        np.concatenate([np.tile(values[numbered(PATIENTS) == p], int(n)) for p, n in enumerate(counts)]).mean()
        for counts in sample_counts(12, 400, 1)
    ]
    assert ours == pytest.approx((values.mean(), *np.percentile(plain, (2.5, 97.5))))


def test_an_interval_of_nothing_is_not_a_number():
    assert np.isnan(interval(0.5, np.array([np.nan])).low)


def test_eleven_targets_take_less_than_a_second(features):
    targets = {f"t{i}": np.random.default_rng(i).standard_normal(108) for i in range(11)}
    ridge_probes(features, targets, PATIENTS)
    start = time.process_time()
    ridge_probes(features, targets, PATIENTS)
    assert time.process_time() - start < 1


def test_patients_that_are_not_scored_help_to_learn():
    """Three patients are too few to learn thirty-two weights from; with nine others they are enough."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((108, 32))
    y = x @ rng.standard_normal(32)
    scored = numbered(PATIENTS) < 3
    alone = ridge_probes(x[scored], {"y": y[scored]}, PATIENTS[scored])["y"]
    helped = ridge_probes(x, {"y": y}, PATIENTS, scored=scored)["y"]
    assert helped.score.value > 0.99 > alone.score.value + 0.2
    assert (helped.windows, helped.patients) == (27, 3)
    assert np.isnan(helped.predicted[~scored]).all() and np.isnan(helped.target[~scored]).all()


def test_r2_is_that_of_the_scored_windows_alone(features, target):
    scored = numbered(PATIENTS) < 6
    probe = ridge_probes(features, {"t": target + 100 * ~scored}, PATIENTS, scored=scored)["t"]
    assert probe.score.value == pytest.approx(r2_score(target[scored], probe.predicted[scored]))


def test_a_label_is_told_of_the_scored_patients_alone():
    sex = np.where(numbered(PATIENTS) % 2, "M", "F")
    x = np.random.default_rng(0).standard_normal((108, 8)) + (sex == "M")[:, None]
    probe = label_probe(x, sex, PATIENTS, scored=numbered(PATIENTS) < 4)
    assert probe.patients == 4 and probe.windows == 36 and probe.score.value == 1
    assert label_probe(x, sex, PATIENTS, scored=numbered(PATIENTS) < 3) is None


def test_what_hardly_varies_where_it_is_scored_is_no_target(features, target):
    scored = numbered(PATIENTS) < 6
    steady = np.where(scored, 1e-3 * target, target)
    assert list(ridge_probes(features, {"t": target, "steady": steady}, PATIENTS, scored=scored)) == ["t"]


def test_a_shuffled_label_has_both_classes_among_the_few_that_are_told_apart():
    sex = np.where(numbered(PATIENTS) % 2, "M", "F")
    for seed in range(10):
        probe = label_probe(np.eye(108, 4), sex, PATIENTS, scored=numbered(PATIENTS) < 4, seed=seed)
        assert 0 <= probe.shuffled <= 1


def test_the_interval_of_r2_is_that_of_the_error_over_the_variance_of_all_windows(features, target):
    """Against the plain way, patient by patient."""
    probe = ridge_probes(features, {"t": target}, PATIENTS, resamples=300)["t"]
    squared, of = np.square(target - probe.predicted), numbered(PATIENTS)
    plain = [
        1 - np.concatenate([np.tile(squared[of == p], int(n)) for p, n in enumerate(counts)]).mean() / target.var()
        for counts in sample_counts(12, 300, 0)
    ]
    assert (probe.score.low, probe.score.high) == pytest.approx(tuple(np.percentile(plain, (2.5, 97.5))))
