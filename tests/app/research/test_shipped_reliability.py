"""What the shipped bundle's reference patients say of real patients whom it has not seen, and of what is no patient."""

from __future__ import annotations

import sys

import pytest
from scipy.stats import binom

from models.bundle.reference import read_reference
from models.statistics.out_of_distribution import ALPHA, LEAST_PATIENTS
from tests.support.checkout import ROOT, SHARED_CT, skip_or_fail


@pytest.fixture(scope="module")
def told():
    """The benchmark, and its bundle, open."""
    if not SHARED_CT.is_dir():
        skip_or_fail("no ../shared/ct beside the checkout")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import reliability
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return reliability, reliability.open_model(None)


def test_it_has_enough_reference_patients_and_has_learned_from_none_of_them(told):
    _, model = told
    learned = {case.patient for case in model.bundle.training.learned}
    document = model.bundle.reference_path.read_text(encoding="utf-8")
    assert read_reference(model.bundle).patients >= LEAST_PATIENTS
    assert learned and not [patient for patient in learned if f'"{patient}"' in document]


def test_unseen_patients_are_flagged_as_rarely_as_alpha_says(told):
    benchmark, model = told
    found = [model.measure(volume)[0] for _, volume in benchmark.unseen_patients(model.bundle, SHARED_CT)]
    assert len(found) >= 10
    flagged = sum(one.verdict == "out_of_distribution" for one in found)
    assert flagged <= binom.ppf(0.95, len(found), ALPHA)


def test_a_scan_1000_hu_off_and_air_alone_are_flagged_and_20_hu_are_not(told):
    benchmark, model = told
    for place in benchmark.CHANGED.values():
        volume = benchmark.find_scans(SHARED_CT / place)[0].open()
        found = {name: model.measure(changed)[0].verdict for name, changed in benchmark.changes(volume)}
        flagged = {name for name, verdict in found.items() if verdict == "out_of_distribution"}
        assert {"1000 HU up", "1000 HU down", "air alone", "water alone"} <= flagged, place
        assert "20 HU up" not in flagged, place
