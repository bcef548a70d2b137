"""The conformal p-value is valid whatever the patients are like, and flags what a sound model cannot explain."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.covariance import ledoit_wolf as sklearns

from models.phantom import make_phantom, sample_factors
from models.statistics.out_of_distribution import (
    ALPHA,
    LEAST_PATIENTS,
    Population,
    deviation,
    distances_from_others,
    ledoit_wolf,
    stand,
    surprise,
)

RNG = np.random.default_rng(0)


def population(
    mu: np.ndarray,
    errors: np.ndarray | None = None,
    outliers: np.ndarray | None = None,
    orientations: np.ndarray | None = None,
) -> Population:
    return Population(mu, np.ones_like(mu), errors, outliers, orientations)


def p_of_each(bag: np.ndarray, errors: np.ndarray, *scores: np.ndarray) -> list[float]:
    """If each were the new patient, and the others the reference patients."""
    found = []
    for j in range(len(bag)):
        others = population(*(np.delete(values, j, axis=0) for values in (bag, errors, *scores)))
        found.append(stand(others, bag[j], np.ones(bag.shape[1]), errors[j], *(each[j] for each in scores)).p)
    return found


# The conformal p-value


@pytest.mark.parametrize("n", [LEAST_PATIENTS, 11, 19])
@pytest.mark.parametrize("length", [2, 32])
def test_of_any_bag_at_most_alpha_would_be_flagged_if_each_were_the_new_patient(n, length):
    """This is validity: which of a bag is the new patient is chance, so this part of it is the chance of a flag."""
    for _ in range(4):
        bag = RNG.standard_t(2, (n + 1, length)) * RNG.exponential(1, (n + 1, 1))
        errors = np.exp(RNG.standard_normal(n + 1)) * (1 + np.abs(bag[:, 0]))
        each = np.arange(n + 1)
        flagged = [
            stand(population(bag[each != j], errors[each != j]), bag[j], np.ones(length), errors[j]).p <= ALPHA
            for j in each
        ]
        assert sum(flagged) <= ALPHA * (n + 1)


def test_without_ties_every_rank_is_taken_once():
    bag, errors = RNG.standard_normal((12, 5)), RNG.exponential(1, 12)
    each = np.arange(12)
    p = [stand(population(bag[each != j], errors[each != j]), bag[j], np.ones(5), errors[j]).p for j in each]
    assert np.allclose(sorted(p), np.arange(1, 13) / 12)


@pytest.mark.parametrize("n", [LEAST_PATIENTS, 11, 40])
@pytest.mark.parametrize("spread", [0.0, 1.0, 20.0])
def test_with_outlier_scores_too_every_rank_is_taken_once(n, spread):
    """So p of exchangeable draws is uniform on k / (n + 1), and at most alpha as often as alpha says."""
    bag, errors = RNG.standard_t(2, (n + 1, 5)), RNG.exponential(1, n + 1)
    outliers = spread * RNG.standard_t(2, n + 1) + bag[:, 0] - 7
    p = p_of_each(bag, errors, outliers)
    assert np.allclose(sorted(p), np.arange(1, n + 2) / (n + 1))
    assert sum(value <= ALPHA for value in p) <= ALPHA * (n + 1)


@pytest.mark.parametrize("n", [LEAST_PATIENTS, 11, 40])
@pytest.mark.parametrize("limbs", [0, 3, 7])
def test_with_orientation_scores_too_at_most_alpha_would_be_flagged_however_many_are_zero(n, limbs):
    for _ in range(4):
        bag, errors = RNG.standard_t(2, (n + 1, 5)), RNG.exponential(1, n + 1)
        outliers, orientations = RNG.standard_t(2, n + 1) - 7, 2 * RNG.standard_t(2, n + 1) - 3
        orientations[:limbs] = 0
        p = p_of_each(bag, errors, outliers, orientations)
        assert sum(value <= ALPHA for value in p) <= ALPHA * (n + 1)
        if not limbs:
            assert np.allclose(sorted(p), np.arange(1, n + 2) / (n + 1))


@pytest.mark.parametrize("shared", [0.0, -3.0, 3.0])
def test_values_that_all_share_say_nothing(shared):
    """Ties have one result, whoever comes last: otherwise every new patient would be flagged."""
    bag, errors = RNG.standard_normal((20, 5)), np.full(20, 0.7)
    with_all = p_of_each(bag, errors, np.full(20, shared))
    assert np.allclose(sorted(with_all), np.arange(1, 21) / 20)
    assert p_of_each(bag, errors, np.full(20, shared), np.full(20, shared)) == with_all
    assert with_all == [
        stand(population(np.delete(bag, j, axis=0)), bag[j], np.ones(5), None).p for j in range(len(bag))
    ]


def test_who_comes_first_among_the_reference_patients_does_not_matter():
    mu, errors, new = RNG.standard_normal((11, 6)), RNG.exponential(1, 11), RNG.standard_normal(6)
    order, outliers, orientations = RNG.permutation(11), RNG.standard_normal(11), RNG.standard_normal(11)
    orientations[:4] = 0
    reference = [values[order] for values in (mu, errors, outliers, orientations)]
    first = stand(population(mu, errors, outliers, orientations), new, np.ones(6), 1.0, 0.1, 0.0)
    second = stand(population(*reference), new, np.ones(6), 1.0, 0.1, 0.0)
    assert (first.p, first.combined_below) == (second.p, second.combined_below)
    assert (first.outlier, first.outlier_below) == (second.outlier, second.outlier_below)
    assert (first.orientation, first.orientation_below) == (second.orientation, second.orientation_below)
    assert second.distance == pytest.approx(first.distance)


@pytest.mark.parametrize(
    ("mu", "error"),
    [(np.full(6, 9.0), 50.0), (np.zeros(6), 400.0), (np.zeros(6), 3.0)],
    ids=["far mu", "large error", "small error"],
)
def test_what_is_far_in_either_value_has_the_smallest_p(mu, error):
    reference = population(np.random.default_rng(1).standard_normal((9, 6)), np.linspace(40, 60, 9))
    found = stand(reference, mu, np.ones(6), error)
    assert found.p == reference.smallest_p == 0.1
    assert found.combined_below == 100


def test_the_middle_of_the_reference_patients_is_not_flagged():
    found = stand(population(RNG.standard_normal((30, 6)), np.linspace(40, 60, 31)[:30]), np.zeros(6), np.ones(6), 50.0)
    assert found.p > 0.8
    assert found.reconstruction_below == pytest.approx(50, abs=4)


def test_a_far_outlier_score_alone_has_the_smallest_p_and_a_low_one_does_not():
    mu, scores = np.random.default_rng(1).standard_normal((11, 6)), np.linspace(-9.1, -1.2, 11)
    reference = population(mu, np.linspace(40, 60, 11), scores)
    found = stand(reference, np.zeros(6), np.ones(6), 50.0, 6.6)
    assert found.p == reference.smallest_p
    assert found.outlier == max(found.outlier, found.latent, found.reconstruction)
    assert (found.combined_below, found.outlier_below) == (100, 100)
    low = stand(reference, np.zeros(6), np.ones(6), 50.0, -30.0)
    assert low.p > ALPHA and (low.outlier, low.outlier_below) == (0, 0)


def test_an_outlier_score_counts_by_its_place_among_the_others_not_by_its_sign():
    mu, scores = np.random.default_rng(1).standard_normal((11, 6)), np.linspace(0, 8, 11)
    first, second = (
        stand(population(mu, None, scores + shift), np.zeros(6), np.ones(6), None, 7.9 + shift) for shift in (-64, 64)
    )
    assert first.outlier == pytest.approx(second.outlier)
    assert (first.p, first.outlier_below) == (second.p, second.outlier_below)


def test_one_odd_reference_patient_does_not_hide_an_outlier_score_that_no_patient_has():
    mu = np.random.default_rng(7).standard_normal((11, 6))
    mu[3] = 1000.0
    reference = population(mu, None, np.linspace(-9, -1, 11))
    assert stand(reference, np.zeros(6), np.ones(6), None, 9.0).p == reference.smallest_p


def test_without_outlier_scores_the_others_decide_as_before():
    mu, errors = RNG.standard_normal((11, 6)), RNG.exponential(1, 11)
    found = stand(population(mu, errors), np.zeros(6), np.ones(6), 1.0, 99.0)
    assert (found.outlier, found.outlier_below) == (0, None)
    assert found.p == stand(population(mu, errors), np.zeros(6), np.ones(6), 1.0).p


LIMBS_AND_CHESTS = np.array([0.0] * 7 + [-3.1, -2.2, -2.7, -1.4])
"""Orientation scores of limbs, where there is no lung to tell by, and of chests as they should be."""


def stand_turned(orientation: float | None, orientations: np.ndarray | None = LIMBS_AND_CHESTS, **other):
    """Of a patient who is like the others in all else."""
    mu, errors = np.random.default_rng(1).standard_normal((11, 6)), np.linspace(40, 60, 11)
    reference = population(mu, errors, np.linspace(-9.1, -1.2, 11), orientations)
    return stand(reference, np.zeros(6), np.ones(6), 50.0, other.get("outlier", -5.0), orientation)


def test_a_chest_that_lies_as_no_patient_does_has_the_smallest_p_and_one_that_lies_well_does_not():
    found = stand_turned(2.31)
    assert found.p == 1 / 12
    assert found.orientation == max(found.orientation, found.outlier, found.latent, found.reconstruction)
    assert (found.combined_below, found.orientation_below) == (100, 100)
    well = stand_turned(-30.0)
    assert well.p > ALPHA and (well.orientation, well.orientation_below) == (0, 0)


@pytest.mark.parametrize("limbs", [0, 1, 2, 7, 11])
def test_another_limb_is_no_stranger_than_the_limbs_among_the_reference_patients(limbs):
    """Their scores are all 0, and the largest where the others are chests."""
    scores = np.append(np.zeros(limbs), -np.linspace(1, 4, 11 - limbs))
    found = stand_turned(0.0, scores)
    assert found.p > ALPHA
    assert found.orientation_below == pytest.approx(100 * (11 - limbs) / 11)
    assert found.orientation == 0


def test_a_score_just_above_many_equal_ones_is_no_farther_than_its_odds():
    for theirs in (LIMBS_AND_CHESTS, np.zeros(11)):
        assert stand_turned(0.02, theirs).orientation == pytest.approx(math.log(12) + 0.02)
        assert stand_turned(4.0, theirs).orientation == pytest.approx(math.log(12) + 4)
        assert stand_turned(1e9, theirs).orientation < math.inf


def test_a_reference_patient_just_above_many_equal_ones_hides_nothing():
    """Half of the others have the same score, so their spread gives the tail no scale; the odds do."""
    theirs = np.where(np.arange(11) == 10, 0.001, LIMBS_AND_CHESTS)
    found = stand_turned(0.0, theirs, outlier=6.6)
    assert found.p == 1 / 12 and found.outlier > found.orientation


def test_without_orientation_scores_the_others_decide_as_before():
    for found in (stand_turned(None), stand_turned(2.31, None)):
        assert (found.orientation, found.orientation_below) == (0, None)
        assert found.p == stand_turned(None, None).p


def test_without_a_decoder_mu_alone_decides():
    reference = population(RNG.standard_normal((20, 4)))
    assert stand(reference, np.full(4, 20.0), np.ones(4), None).p == reference.smallest_p
    found = stand(reference, np.zeros(4), np.ones(4), None)
    assert found.p > 0.5 and (found.reconstruction, found.reconstruction_below) == (0, None)


def test_percentiles_of_a_dimension_count_the_patients_with_a_smaller_value():
    mu = np.column_stack([np.arange(10.0), -np.arange(10.0)])
    found = stand(Population(mu, 1 + mu**2, None), np.array([2.5, -20.0]), np.array([50.0, 0.5]), None)
    assert found.mu_below.tolist() == [30, 0]
    assert found.sigma_below.tolist() == [70, 0]


# Its parts


@pytest.mark.parametrize(("m", "length"), [(3, 2), (10, 32), (40, 4)])
def test_the_covariance_and_the_distances_are_those_of_scikit_learn(m, length):
    values = RNG.standard_normal((m, length)) * np.arange(1, length + 1)
    expected, _ = sklearns(values)
    assert np.allclose(ledoit_wolf(values - values.mean(axis=0), length), expected, rtol=1e-10)
    assert np.allclose(population(values).covariance, expected, rtol=1e-10)

    bag = np.vstack([values, 3 * values[:1]])
    for at, found in enumerate(distances_from_others(bag)):
        others = np.delete(bag, at, axis=0)
        away = bag[at] - others.mean(axis=0)
        assert found == pytest.approx(math.sqrt(away @ np.linalg.solve(sklearns(others)[0], away)), rel=1e-6)


def test_a_dimension_that_never_changes_has_no_weight_until_it_does():
    mu = np.column_stack([RNG.standard_normal(12), np.full(12, 0.5)])
    assert stand(population(mu), np.array([0.0, 0.5]), np.ones(2), None).p > 0.3
    assert stand(population(mu), np.array([0.0, 40.0]), np.ones(2), None).p == 1 / 13


def test_surprise_grows_with_the_value_goes_on_beyond_the_others_and_is_equal_for_equal_values():
    found = surprise(np.array([3.0, 1.0, 2.0, 2.0, 50.0]))
    assert np.argsort(found, kind="stable").tolist() == [1, 2, 3, 0, 4]
    assert found[2] == found[3]
    assert math.log(5) < found[4] < surprise(np.array([3.0, 1.0, 2.0, 2.0, 500.0]))[4]
    assert surprise(np.full(5, 2.0)) == pytest.approx(np.full(5, math.log(5 / 4)))
    assert len(set(surprise(np.array([1.0, 3.0, 3.0, 3.0, 2.0]))[1:4])) == 1
    assert np.isfinite(surprise(np.array([0.0, 0.0, 0.0, 1.0]))).all()


def test_a_limited_tail_keeps_the_order_and_ends():
    values = np.array([3.0, 1.0, 2.0, 2.0, 50.0])
    near, far = (surprise(np.append(values[:4], last), 1.0)[-1] for last in (4.0, 5e9))
    assert math.log(5) < near < far < math.log(5) + 1
    assert np.array_equal(surprise(values, 1.0)[:4], surprise(values)[:4])


def test_one_odd_reference_patient_does_not_hide_a_reconstruction_that_no_patient_has():
    mu = np.random.default_rng(7).standard_normal((11, 6))
    mu[3] = 1000.0
    reference = population(mu, np.linspace(0.6, 0.8, 11))
    assert stand(reference, np.zeros(6), np.ones(6), 1.2).p == reference.smallest_p


def test_an_error_is_as_far_below_the_median_as_above_it_by_its_ratio():
    assert deviation(np.array([25.0, 50.0, 100.0])) == pytest.approx([math.log(2), 0, math.log(2)])
    assert np.isfinite(deviation(np.array([0.0, 50.0, 100.0]))).all()


@pytest.mark.parametrize(
    ("mu", "sigma", "errors", "says"),
    [
        (np.ones((5, 3)), np.ones((5, 3)), None, "the same for all"),
        (np.eye(3)[:1], np.ones((1, 3)), None, "1 patients"),
        (RNG.standard_normal((101, 2)), np.ones((101, 2)), None, "101 patients"),
        (np.eye(3), np.ones((3, 2)), None, "sigma of"),
        (np.eye(3), np.ones((3, 3)), np.ones(2), "errors of"),
        (np.eye(3), -np.ones((3, 3)), None, "negative"),
        (np.eye(3), np.ones((3, 3)), np.array([1.0, -1.0, 1.0]), "negative"),
        (np.eye(3), np.full((3, 3), np.nan), None, "finite"),
    ],
)
def test_a_population_that_cannot_be_is_refused(mu, sigma, errors, says):
    with pytest.raises(ValueError, match=says):
        Population(mu, sigma, errors)


@pytest.mark.parametrize(
    ("outliers", "says"), [(np.zeros(2), r"outlier scores of \(2,\) for 3"), (np.array([0.0, np.inf, 1.0]), "finite")]
)
def test_scores_that_cannot_be_are_refused(outliers, says):
    with pytest.raises(ValueError, match=says):
        population(np.eye(3), None, outliers)
    with pytest.raises(ValueError, match=says.replace("outlier", "orientation")):
        population(np.eye(3), None, None, outliers)


# With a sound model: whitened principal components of phantoms, which explain chests and nothing else


SHAPE, SPACING_MM, LATENTS = (6, 16, 16), (50.0, 22.5, 22.5), 8


def chest(number: int) -> np.ndarray:
    """A chest in HU, float64."""
    factors = sample_factors(np.random.default_rng(number))
    return np.clip(make_phantom(factors, SHAPE, SPACING_MM, seed=number).astype(np.float64), -1000, 1000)


class Sound:
    """An encoder and decoder whose mu is whitened and whose error is small, for chests."""

    def __init__(self, chests: list[np.ndarray]) -> None:
        flat = np.stack([one.ravel() for one in chests])
        self.mean = flat.mean(axis=0)
        _, values, axes = np.linalg.svd(flat - self.mean, full_matrices=False)
        self.axes, self.scale = axes[:LATENTS], values[:LATENTS] / math.sqrt(len(chests))

    def measured(self, hu: np.ndarray) -> tuple[np.ndarray, float]:
        mu = (np.clip(hu, -1000, 1000).ravel() - self.mean) @ self.axes.T / self.scale
        made = self.mean + (mu * self.scale) @ self.axes
        return mu, float(np.abs(made - np.clip(hu, -1000, 1000).ravel()).mean())


@pytest.fixture(scope="module")
def sound() -> tuple[Sound, Population]:
    model = Sound([chest(number) for number in range(40)])
    mu, errors = zip(*(model.measured(chest(number)) for number in range(100, 119)), strict=True)
    return model, population(np.array(mu), np.array(errors))


def head_in_a_body_model() -> np.ndarray:
    """A skull around a brain, as wide as a head."""
    z, y, x = (np.arange(n) * mm - (n - 1) / 2 * mm for n, mm in zip(SHAPE, SPACING_MM, strict=True))
    radius = np.sqrt((z[:, None, None] / 110) ** 2 + (y[:, None] / 95) ** 2 + (x / 75) ** 2)
    return np.where(radius < 0.85, 35.0, np.where(radius < 1, 900.0, -1000.0))


@pytest.mark.parametrize(
    "strange",
    [
        lambda: chest(300) + 1000,
        lambda: chest(300) - 1000,
        lambda: chest(300)[:, ::-1],
        lambda: chest(300)[::-1],
        lambda: np.full(SHAPE, -1000.0),
        lambda: np.zeros(SHAPE),
        head_in_a_body_model,
    ],
    ids=["1000 HU up", "1000 HU down", "prone", "upside down", "air alone", "water alone", "head"],
)
def test_what_is_no_chest_is_flagged_by_the_score(sound, strange):
    model, reference = sound
    mu, error = model.measured(strange())
    assert stand(reference, mu, np.ones(LATENTS), error).p <= ALPHA


def test_new_chests_are_flagged_as_rarely_as_alpha_says(sound):
    model, reference = sound
    flagged = 0
    for number in range(200, 220):
        mu, error = model.measured(chest(number))
        flagged += stand(reference, mu, np.ones(LATENTS), error).p <= ALPHA
    assert flagged <= binom.ppf(0.95, 20, ALPHA)
