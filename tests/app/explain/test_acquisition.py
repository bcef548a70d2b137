"""How much of the features is patient, acquisition and rest, on tables that were made so."""

from __future__ import annotations

import numpy as np

from app.explain.data.question import ask
from app.explain.sections.variance import settings_of, variance_of
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
