"""Collapse is low KL as well as low variance, over enough windows of enough patients."""

from __future__ import annotations

import pytest

from models.statistics.collapse import LEAST_PATIENTS, LEAST_WINDOWS, measure_collapse

ENOUGH = {"windows": LEAST_WINDOWS, "patients": LEAST_PATIENTS}


@pytest.mark.parametrize(
    ("kl", "variance", "collapsed"),
    [
        ([0.01, 0.02, 0.03, 3.0], [0.001, 0.001, 0.001, 0.9], True),
        ([6.0, 6.0, 6.0, 6.0], [0.001, 0.001, 0.001, 0.001], False),  # a small sigma tells much with a small mu
        ([0.01, 0.01, 3.0, 3.0], [0.001, 0.001, 0.9, 0.9], False),  # half of them
        ([0.01, 0.01, 0.01, 3.0], [0.5, 0.5, 0.5, 0.9], False),
    ],
)
def test_a_dimension_is_unused_where_kl_and_variance_are_low(kl, variance, collapsed):
    assert measure_collapse(kl, variance, **ENOUGH, free_bits_nats=0.05).collapsed is collapsed


def test_a_dimension_at_its_free_bits_tells_nothing():
    kl, variance = [0.5] * 4, [0.0] * 4
    assert measure_collapse(kl, variance, **ENOUGH, free_bits_nats=0.5).collapsed
    assert not measure_collapse(kl, variance, **ENOUGH, free_bits_nats=0.05).collapsed


@pytest.mark.parametrize("few", [{"windows": LEAST_WINDOWS - 1}, {"patients": LEAST_PATIENTS - 1}])
def test_of_too_few_windows_or_patients_it_cannot_be_told(few):
    assert measure_collapse([0.0] * 4, [0.0] * 4, **(ENOUGH | few), free_bits_nats=0.05).collapsed is None
