"""Scans of one patient find each other where features say who it is, and no more often than by chance where not."""

from __future__ import annotations

import numpy as np
import pytest

from models.statistics.repeat_scans import repeat_scans


def scans(patients: int, each: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(patients), each)
    x = rng.standard_normal((patients, 8))[of] + noise * rng.standard_normal((len(of), 8))
    return x, np.char.add("P", of.astype(str))


def test_repeats_that_hardly_differ_are_mutual_nearest_neighbours():
    found = repeat_scans(*scans(20, 2, 0.01))
    assert found.found.value == found.mutual.value == found.mutual.low == 1.0
    assert found.within < 0.05 * found.between
    assert (found.scans, found.patients) == (40, 20)


def test_features_that_say_nothing_of_the_patient_find_it_by_chance():
    tables = [repeat_scans(*scans(20, 2, 1e6, seed)) for seed in range(20)]
    chance = tables[0].chance
    assert chance == pytest.approx(1 / 39)
    assert np.mean([one.found.value for one in tables]) == pytest.approx(chance, abs=0.02)
    assert all(one.mutual.value <= one.found.value for one in tables)


def test_of_three_scans_on_a_line_two_find_each_other():
    x = np.array([[0.0], [1.0], [3.0], [100.0]])
    found = repeat_scans(x, ["a", "a", "a", "b"])
    assert found.found.value == 1.0
    assert found.mutual.value == pytest.approx(2 / 3)
    assert found.scans == 3, "the patient with one scan has nothing to find"


def test_without_repeats_nothing_is_said():
    assert repeat_scans(np.eye(3), ["a", "b", "c"]) is None
    assert repeat_scans(np.eye(3), ["a", "a", "a"]) is None
