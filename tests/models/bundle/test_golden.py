"""A bundle carries what its encoder gave when it was written, and a machine is held to that."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.bundle.check import check_active, check_bundle, check_golden, check_reconstruction
from models.bundle.golden import GOLDEN, golden_input, make_golden, read_golden
from models.bundle.store import amend_bundle, load_bundle
from models.runtime import OnnxEncoder
from models.spec import BundleError
from models.training_record import Case, Figures, TrainingRecord
from tests.support.bundles import write_small_bundle
from tests.support.certificates import small_certificate
from tests.support.checkout import ROOT


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_small_bundle(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def bundle(made, tmp_path):
    """A copy that may be broken."""
    return replace(made, path=Path(shutil.copytree(made.path, tmp_path / "small")))


def edit_golden(bundle, **changes) -> None:
    document = json.loads((bundle.path / GOLDEN).read_bytes()) | changes
    amend_bundle(bundle.path, {GOLDEN: json.dumps(document).encode()})


def measured(active: int, units: int) -> TrainingRecord:
    return TrainingRecord(figures=Figures(9, 100.0, 200.0, active, (1.0,) * units))


def verdicts(bundle) -> dict[str, bool | None]:
    return {one.question: one.good for one in check_bundle(bundle)}


def test_the_self_test_input_is_a_closed_formula_of_the_voxels_indices():
    made = golden_input((8, 16, 24))
    assert (made.shape, made.dtype) == ((1, 1, 8, 16, 24), np.float32)
    assert 0 <= made.min() < 0.2 and 0.8 < made.max() <= 1
    z, y, x = 5, 11, 7
    coarse = np.cos(0.21 * z) * np.cos(0.09 * y + 1) * np.cos(0.11 * x + 2)
    fine = np.cos(1.3 * z + 0.5) * np.cos(0.83 * y) * np.cos(0.71 * x + 0.3)
    assert made[0, 0, z, y, x] == round((0.5 + 0.35 * coarse + 0.15 * fine) * 4096) / 4096


def test_the_self_test_input_never_changes():
    digest = hashlib.sha256(golden_input((32, 96, 96)).astype("<f4").tobytes()).hexdigest()
    assert digest == "2b5e47b84c8492fb2ff687b5786ad0605ab9bf8fdf46e91b74e3014805b31a50"


def test_golden_values_are_what_the_encoder_gives(made):
    golden = read_golden(made)
    given = OnnxEncoder(made).run(golden_input((8, 16, 16)), ["mu", "sigma"])
    assert np.array_equal(golden.mu, given["mu"][0])
    assert np.array_equal(golden.sigma, given["sigma"][0])
    assert make_golden(made) == (made.path / GOLDEN).read_bytes()


def test_a_bundle_that_is_as_it_was_written_is_good(made):
    good = verdicts(made)
    assert good.pop("active units") is None  # untrained: nobody measured
    assert good.pop("reconstruction") is False  # and whatever is shown, the same is reconstructed
    assert good.pop("golden decoder") is None  # it has none as ONNX
    assert set(good.values()) == {True}


@pytest.mark.parametrize(("by", "good"), [(0.9, True), (1.1, False)])
def test_a_machine_that_gives_other_numbers_is_told(bundle, by, good):
    golden = read_golden(bundle)
    last = float(golden.mu[-1] + by * golden.tolerance)
    edit_golden(bundle, mu=[*map(float, golden.mu[:-1]), last])
    assert check_golden(bundle, OnnxEncoder(bundle)).good is good


def test_the_tolerance_grows_with_mu(bundle):
    edit_golden(bundle, mu=[20.0, 0.0, 0.0, 0.0])
    assert read_golden(bundle).tolerance == pytest.approx(20e-4)


def test_a_number_that_is_none_is_infinitely_far(made):
    golden = read_golden(made)
    assert golden.difference(np.full_like(golden.mu, np.nan), golden.sigma) == np.inf
    assert golden.difference(golden.mu[:3], golden.sigma[:3]) == np.inf


def test_a_bundle_without_golden_values_says_so_and_is_compared_with_torch(bundle):
    (bundle.path / GOLDEN).unlink()
    assert read_golden(bundle) is None
    found = verdicts(bundle)
    assert (found["golden values"], found["torch"]) == (None, True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mu": [1.0]}, "is damaged"),
        ({"mu": None}, "is damaged"),
        ({"mu": ["a", 0, 0, 0]}, "is damaged"),
        ({"sigma": [1e99, 1, 1, 1]}, "is damaged"),
        ({"input_sha256": "0" * 64}, "self-test input has SHA-256"),
    ],
)
def test_golden_values_that_cannot_be_are_one_line(bundle, change, says):
    edit_golden(bundle, **change)
    with pytest.raises(BundleError, match=says):
        read_golden(bundle)
    assert verdicts(bundle)["golden values"] is False


def test_weights_that_do_not_fit_take_no_other_verdict_away(made):
    found = verdicts(replace(made, architecture_parameters=dict(made.architecture_parameters) | {"neck": 16}))
    assert found["torch"] is False and found["golden values"] is True and "MONAI metadata" in found


def test_reconstructions_that_differ_as_the_phantoms_do_are_good():
    (verdict,) = check_reconstruction(load_bundle(ROOT / "models" / "ct_vae"))
    assert verdict.good is True
    assert "correlation of 0.6" in verdict.detail


@pytest.mark.parametrize(("active", "good"), [(4, True), (2, True), (1, False), (0, False)])
def test_fewer_than_half_of_the_units_active_is_a_collapse(made, active, good):
    trained = replace(made, training=measured(active, 4))
    verdict = check_active(trained)
    assert verdict.good is good
    assert f"{active} of 4 units are active according to its training" in verdict.detail


@pytest.mark.parametrize(
    ("kl", "patients", "good"), [(0.0, 5, False), (6.0, 5, True), (0.0, 1, None)], ids=["collapsed", "high KL", "few"]
)
def test_training_figures_tell_a_collapse_by_kl_and_by_enough_patients(made, kl, patients, good):
    figures = Figures(40, 1.0, 1.0, 0, (kl,) * 4, (0.001,) * 4)
    cases = tuple(Case(str(number), split="test", windows=8) for number in range(patients))
    training = TrainingRecord(figures=figures, settings={"free_bits_nats": 0.05}, data=cases)
    assert check_active(replace(made, training=training)).good is good


def test_a_certificate_is_believed_before_the_training(bundle):
    trained = replace(bundle, training=measured(4, 4))
    document = small_certificate(active_units=1).as_json()
    amend_bundle(bundle.path, {"docs/certificate.json": json.dumps(document).encode()})
    assert check_active(trained).good is False
    assert "certificate" in check_active(trained).detail


def test_without_figures_there_is_no_verdict_on_units(made):
    assert check_active(replace(made, training=TrainingRecord(command="none"))).good is None
