"""The score of features: max(R², 0), mean over probes and seeds, with paired samples of patients."""

from __future__ import annotations

import numpy as np
import pytest

from models.statistics.probe_scores import feature_score
from models.statistics.probes import ridge_probes

RNG = np.random.default_rng(4)
PATIENTS = np.repeat(np.arange(20), 3)
X = RNG.standard_normal((60, 5))
TARGETS = {"known": X[:, 0] + 0.3 * RNG.standard_normal(60), "unknown": RNG.standard_normal(60)}


def by_seed(features: np.ndarray, targets=TARGETS):
    return [ridge_probes(features, targets, PATIENTS, shuffles=0, resamples=1, seed=seed) for seed in (0, 1)]


def test_the_score_is_the_mean_of_what_is_above_zero():
    probes = by_seed(X)
    expected = {name: np.mean([max(one[name].score.value, 0) for one in probes]) for name in TARGETS}
    found = feature_score(probes)
    assert found.by_probe == pytest.approx(expected)
    assert found.value == pytest.approx(np.mean(list(expected.values())))
    assert found.by_probe["known"] > 0.8 and found.by_probe["unknown"] < 0.1
    assert found.interval.low < found.value < found.interval.high
    assert (found.sampled >= 0).all()


def test_features_are_not_above_themselves_and_are_above_noise():
    known = {"known": TARGETS["known"]}
    ours, noise = feature_score(by_seed(X, known)), feature_score(by_seed(RNG.standard_normal((60, 5)), known))
    same, low = ours.above(ours)
    assert same == (0, 0, 0) and low == 0
    over, low_80 = ours.above(noise)
    assert over.low > 0.5 and over.low <= low_80 <= over.value


def test_without_a_probe_there_is_no_score():
    assert feature_score([{}, {}]) is None
    with pytest.raises(ValueError, match="the seeds have different probes"):
        feature_score([by_seed(X)[0], {}])
