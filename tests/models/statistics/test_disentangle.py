"""Measures of disentanglement know an ideal code from an entangled one, and both from noise."""

from __future__ import annotations

import numpy as np
import pytest

from models.statistics.disentangle import (
    _completeness,
    _disentanglement,
    disentanglement,
    mutual_information_gap,
    separated_attribute_predictability,
)

NAMES = ("size", "noise", "contrast")


@pytest.fixture(scope="module")
def factors():
    return np.random.default_rng(0).uniform(-1, 1, (240, 3))


def named(factors):
    return dict(zip(NAMES, factors.T, strict=True))


def mean(by_factor):
    return float(np.mean(list(by_factor.values())))


@pytest.fixture(scope="module")
def ideal(factors):
    """Each latent is one factor, scaled and bent, and three more are noise."""
    noise = np.random.default_rng(1).standard_normal((240, 3))
    latents = np.concatenate([np.tanh(factors) * [3, -1, 10], noise], axis=1)
    return disentanglement(latents, named(factors))


@pytest.fixture(scope="module")
def entangled(factors):
    """The same information turned by a rotation that gives each latent a part of each factor."""
    third = np.array([[2, 2, 1], [-2, 1, 2], [1, -2, 2]]) / 3
    return disentanglement(factors @ third, named(factors))


@pytest.fixture(scope="module")
def random(factors):
    return disentanglement(np.random.default_rng(1).standard_normal((240, 6)), named(factors))


def test_an_ideal_code_is_disentangled_by_every_measure(ideal):
    assert mean(ideal.mig) > 0.8 and mean(ideal.sap) > 0.9
    assert ideal.disentanglement > 0.85 and mean(ideal.completeness) > 0.85
    assert mean(ideal.informativeness) > 0.95 and mean(ideal.factor_r2) > 0.95


def test_an_entangled_code_informs_and_is_not_disentangled(entangled, ideal):
    assert mean(entangled.factor_r2) > 0.99
    assert mean(entangled.mig) < 0.3 and mean(entangled.sap) < 0.3
    assert entangled.disentanglement < 0.4 < ideal.disentanglement
    assert mean(entangled.completeness) < 0.4


def test_a_random_code_does_not_inform(random):
    assert mean(random.mig) < 0.08 and mean(random.sap) < 0.05
    assert mean(random.factor_r2) < 0.05 and mean(random.informativeness) < 0.05


def test_every_factor_is_named(ideal):
    for by_factor in (ideal.mig, ideal.completeness, ideal.informativeness, ideal.sap, ideal.factor_r2):
        assert tuple(by_factor) == NAMES


def test_two_latents_for_one_factor_leave_no_gap(factors):
    latents = factors[:, [0, 0, 1, 2]]
    gaps = mutual_information_gap(latents, named(factors))
    assert gaps["size"] < 0.05 < 0.8 < gaps["noise"]
    assert separated_attribute_predictability(latents, named(factors))["size"] == pytest.approx(0, abs=1e-9)


def test_sap_is_the_gap_of_squared_correlations(factors):
    latents = np.stack([factors[:, 0] + factors[:, 1], factors[:, 0]], axis=1)
    expected = 1 - np.corrcoef(latents[:, 0], factors[:, 0])[0, 1] ** 2
    assert separated_attribute_predictability(latents, named(factors))["size"] == pytest.approx(expected)


def test_dci_by_hand():
    """Latent 0 serves factor 0 alone, latent 1 both alike, latent 2 none: ρ = ½, ½, 0."""
    importance = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]])
    assert _disentanglement(importance) == pytest.approx(0.5)
    share = np.array([2 / 3, 1 / 3])
    assert _completeness(importance) == pytest.approx([1 + np.sum(share * np.log(share)) / np.log(3), 1])


def test_a_dead_latent_changes_nothing_much(factors):
    latents = np.concatenate([factors, np.zeros((240, 1))], axis=1)
    assert separated_attribute_predictability(latents, named(factors))["size"] > 0.9
    assert disentanglement(latents, named(factors)).disentanglement > 0.9


def test_equal_seeds_give_equal_figures(factors):
    assert disentanglement(factors[:90], named(factors[:90])) == disentanglement(factors[:90], named(factors[:90]))
