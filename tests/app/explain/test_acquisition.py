"""How much of the features is patient, acquisition and rest, and what harmonising does, on tables that were made so."""

from __future__ import annotations

import numpy as np
import pytest

from app.explain.data.question import ask
from app.explain.sections.variance import settings_of, variance_of
from app.explain.statistics.harmonising import Harmonise, combat, halves, projection
from app.explain.statistics.rankings import class_folds, macro_auc, ranked
from tests.support.feature_tables import made_table


def shares(table) -> dict[str, float]:
    return {str(name).partition(" ")[0]: share for name, share, _, _ in variance_of(ask(table))[1].rows}


def test_thickness_that_moves_the_features_is_the_acquisitions_share():
    moved = shares(made_table(60, series=3, thickness_effect=0.5, repeat_noise=0.5))
    steady = shares(made_table(60, series=3, thickness_effect=0.0, repeat_noise=0.5))
    assert list(moved) == ["patient", "acquisition", "rest"]
    assert moved["acquisition"] > 0.3 and steady["acquisition"] < 0.02
    assert 0.75 < steady["patient"] < 0.85 and 0.15 < steady["rest"] < 0.25  # 1 and 0.5² of 1.25


def test_without_a_word_on_the_acquisition_the_series_of_a_patient_are_one_share():
    table = made_table(60, series=3, thickness_mm=np.nan)
    assert settings_of(table) is None
    assert list(shares(table)) == ["patient", "series"]
    assert "cannot be told apart here; from the 60 patients" in variance_of(ask(table))[0]


def test_patients_with_one_series_cannot_be_separated_from_their_acquisition():
    said, table = variance_of(ask(made_table(60)))
    assert "cannot be separated" in said and table.rows == ()


@pytest.mark.parametrize("how", [combat, projection])
def test_harmonising_takes_the_scanner_out_of_new_cases_and_leaves_noise_as_it_is(how):
    """Learned on the cases that it is judged by, ComBat gave an AUC of 0.02 on noise: the class, read in reverse."""
    for effect in (0.0, 1.0):
        before, after = np.mean([read_before_and_after(how, effect, seed) for seed in range(4)], axis=0)
        assert 0.35 < after < 0.65
        assert before > 0.7 if effect else 0.35 < before < 0.65


def read_before_and_after(how: Harmonise, effect: float, seed: int) -> list[float]:
    """AUC of the scanner, which moves two of eight features, in the half that harmonising was not learned from."""
    rng = np.random.default_rng(seed)
    scanner = np.where(rng.permutation(60) < 26, "A", "B")
    x = rng.standard_normal((60, 8)) + np.where(np.arange(8) < 2, effect, 0.0) * (scanner == "A")[:, None]
    who = np.array([f"p{k:02d}" for k in range(60)])
    learn, apply = halves(scanner, who, seed)
    made = how(x[learn], scanner[learn], x[apply], scanner[apply])
    y, patient_of = scanner[apply], np.arange(int(apply.sum()))
    folds = class_folds(y, patient_of, seed)
    return [float(macro_auc(ranked(one, y[None], folds, patient_of, ("A", "B"))[0])[0]) for one in (x[apply], made)]
