"""Where a series stands among the reference patients becomes a verdict with its reasons."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.bundle.reference import Reference
from models.statistics.out_of_distribution import Population
from operators.errors import SeriesFailed
from operators.measure.reliability import BLOCK, block_means, measure_reliability, reconstruction_error
from tests.support.records import PREPROCESSING, made_encoding

RNG = np.random.default_rng(5)
MIDDLE = np.array([0.1, 0.0, 3.0])


class Decodes:
    """Gives the same window, float32 (4, 8, 8) in [0, 1], whatever mu is."""

    def __init__(self, hu: float | np.ndarray) -> None:
        self.window = ((np.broadcast_to(np.asarray(hu, np.float64), (4, 8, 8)) + 1000) / 2000).astype(np.float32)

    def run(self, mu):
        return (self.window for _ in mu)


def reference(n: int, *, away: float = 0.0, ratios: tuple[float, float] = (2000, 4000), decoder=None) -> Reference:
    mu = MIDDLE + away + np.random.default_rng(n).standard_normal((n, 3))
    errors = np.linspace(*ratios, n) if decoder is not None else None
    return Reference(Population(mu, np.ones((n, 3)), errors), "ab" * 32, decoder)


def measured(reference: Reference):
    return measure_reliability(made_encoding(), reference, PREPROCESSING)


def test_a_series_like_the_reference_patients_is_in_distribution():
    found = measured(reference(19, decoder=Decodes(70.0)))
    assert found.verdict == "in_distribution"
    assert found.p_conformal > 0.1
    assert found.reconstruction_mae_hu == pytest.approx(30, abs=1e-3)
    assert found.reasons == (f"p {found.p_conformal:.2g} is above 0.1; 19 reference patients allow no p below 0.05",)
    assert (found.n_reference, found.real_fraction, found.reference_sha256) == (19, 1.0, "ab" * 32)


def test_mu_far_away_is_out_of_distribution_and_says_why():
    found = measured(reference(19, away=50.0, decoder=Decodes(70.0)))
    assert (found.verdict, found.p_conformal) == ("out_of_distribution", 0.05)
    assert len(found.reasons) == 2
    assert found.reasons[1].startswith("mu is farther from the reference patients than 100 % of them")
    assert found.percentiles.latent == 100 > found.percentiles.reconstruction


def test_an_error_that_no_patient_has_is_out_of_distribution_and_says_why():
    found = measured(reference(19, decoder=Decodes(900.0)))
    assert found.verdict == "out_of_distribution"
    beside = "8.6e+04 times that of plain block means; of the reference patients 2e+03 to 4e+03"
    assert found.reasons[1] == f"reconstruction error 860 HU, {beside}"


@pytest.mark.parametrize(("n", "verdict"), [(2, "undetermined"), (8, "undetermined"), (9, "out_of_distribution")])
def test_fewer_than_nine_reference_patients_determine_nothing(n, verdict):
    found = measured(reference(n, away=50.0))
    assert found.verdict == verdict
    assert (found.p_conformal is None) is (verdict == "undetermined")
    assert found.mahalanobis > 0 and found.percentiles.latent == 100
    if n == 8:
        assert found.reasons == ("8 reference patients allow no p below 0.11; at least 9 are needed",)


def test_without_a_decoder_there_is_no_reconstruction_error():
    found = measured(reference(9))
    assert (found.reconstruction_mae_hu, found.reconstruction_ratio, found.percentiles.reconstruction) == (None,) * 3
    assert found.verdict == "in_distribution"


def with_scores(low: float, high: float, n: int = 11, **options) -> Reference:
    """Reference patients with outlier scores between these."""
    made = reference(n, decoder=Decodes(70.0), **options)
    return replace(made, population=replace(made.population, outliers=np.linspace(low, high, n)))


def test_an_outlier_score_that_no_patient_has_is_out_of_distribution_and_says_why():
    found = measure_reliability(replace(made_encoding(), outlier=6.6), with_scores(-9.1, -1.2), PREPROCESSING)
    assert (found.verdict, found.outlier_score, found.percentiles.outlier) == ("out_of_distribution", 6.6, 100)
    said = "it is less like a patient than 11 of 11 reference patients: outlier score 6.6, theirs -9.1 to -1.2"
    assert found.reasons[1:] == (said,)


def test_an_outlier_score_is_no_reason_where_another_value_is():
    encoding = replace(made_encoding(), outlier=-5.0)
    found = measure_reliability(encoding, with_scores(-9.1, -1.2, away=50.0), PREPROCESSING)
    assert found.verdict == "out_of_distribution" and found.outlier_score == -5
    assert len(found.reasons) == 2 and found.reasons[1].startswith("mu is farther")


def test_an_outlier_score_among_the_others_is_no_reason_at_all():
    found = measure_reliability(replace(made_encoding(), outlier=-5.0), with_scores(-9.1, -1.2, 19), PREPROCESSING)
    assert found.verdict == "in_distribution" and len(found.reasons) == 1
    assert 0 < found.percentiles.outlier < 100


def test_without_an_outlier_score_there_is_no_rank_of_it():
    found = measured(reference(11, decoder=Decodes(70.0)))
    assert (found.outlier_score, found.percentiles.outlier) == (None, None)


def with_orientations(*theirs: float, **options) -> Reference:
    """Reference patients with these orientation scores, and with outlier scores."""
    made = with_scores(-9.1, -1.2, len(theirs), **options)
    return replace(made, population=replace(made.population, orientations=np.array(theirs)))


LIMBS_AND_CHESTS = (0.0,) * 6 + (-3.1, -2.2, -2.7, -1.4, 0.02)


def test_a_chest_that_lies_as_no_patient_does_is_out_of_distribution_and_says_why():
    encoding = replace(made_encoding(), outlier=-5.0, orientation=2.3125)
    found = measure_reliability(encoding, with_orientations(*LIMBS_AND_CHESTS), PREPROCESSING)
    judged = found.verdict, found.orientation_score, found.percentiles.orientation
    assert judged == ("out_of_distribution", 2.3125, 100)
    than = "11 of 11 reference patients: orientation score 2.31, theirs -3.1 to 0.02"
    assert found.reasons[1:] == (f"it is more likely to lie upside down or back to front than {than}",)


def test_how_a_scan_lies_is_no_reason_where_another_value_is():
    encoding = replace(made_encoding(), outlier=-5.0, orientation=-2.5)
    found = measure_reliability(encoding, with_orientations(*LIMBS_AND_CHESTS, away=50.0), PREPROCESSING)
    assert found.verdict == "out_of_distribution" and found.orientation_score == -2.5
    assert len(found.reasons) == 2 and found.reasons[1].startswith("mu is farther")


@pytest.mark.parametrize("theirs", [LIMBS_AND_CHESTS, (0.0,) * 11], ids=["limbs and chests", "limbs"])
def test_a_limb_is_not_flagged_for_how_it_lies(theirs):
    encoding = replace(made_encoding(), outlier=-5.0, orientation=0.0)
    found = measure_reliability(encoding, with_orientations(*theirs), PREPROCESSING)
    assert found.verdict == "in_distribution" and len(found.reasons) == 1
    assert found.percentiles.orientation == pytest.approx(100 * np.mean(np.array(theirs) < 0))


def test_all_four_parts_may_be_reasons():
    encoding = replace(made_encoding(), outlier=400.0, orientation=400.0)
    strange = replace(with_orientations(*LIMBS_AND_CHESTS, away=50.0), decoder=Decodes(900.0))
    found = measure_reliability(encoding, strange, PREPROCESSING)
    begin = ("p ", "mu is", "reconstruction error", "it is less like", "it is more likely to lie upside down")
    assert len(found.reasons) == len(begin)
    assert all(said.startswith(begun) for said, begun in zip(found.reasons, begin, strict=True))


def test_without_an_orientation_score_there_is_no_rank_of_it():
    found = measure_reliability(replace(made_encoding(), outlier=-5.0), with_scores(-9.1, -1.2), PREPROCESSING)
    assert (found.orientation_score, found.percentiles.orientation) == (None, None)


def test_every_number_is_a_float32():
    encoding = replace(made_encoding(), outlier=float(np.float32(-4.1)), orientation=float(np.float32(-1.1)))
    found = measure_reliability(encoding, with_orientations(*LIMBS_AND_CHESTS), PREPROCESSING)
    reconstruction = ("reconstruction_mae_hu", "reconstruction_ratio")
    for name in ("p_conformal", "mahalanobis", *reconstruction, "outlier_score", "orientation_score", "real_fraction"):
        value = getattr(found, name)
        assert value == float(str(np.float32(value)))


def test_padding_does_not_count_in_the_reconstruction_error():
    encoding = made_encoding()
    half = replace(encoding.windows.volume, shape=(2, 8, 8))  # in the middle of the window along z
    windows = replace(encoding.windows, volume=half)
    hu = np.full((4, 8, 8), 40.0)
    hu[1:3] += 100.0
    hu[[0, 3]] += 700.0
    found = reconstruction_error(replace(encoding, windows=windows), Decodes(hu), PREPROCESSING)
    assert found.mae_hu == pytest.approx(100)


def test_a_voxel_partly_outside_counts_by_its_part_inside():
    encoding = made_encoding()
    windows = replace(encoding.windows, volume=replace(encoding.windows.volume, shape=(3, 8, 8)))
    hu = np.full((4, 8, 8), 40.0)
    hu[[0, 3]] += 90.0  # each of them half inside
    found = reconstruction_error(replace(encoding, windows=windows), Decodes(hu), PREPROCESSING)
    assert found.mae_hu == pytest.approx(30)


def test_the_ratio_is_to_the_error_of_the_means_of_the_real_voxels_of_each_block():
    encoding = made_encoding()
    voxels = np.random.default_rng(3).random(encoding.windows.voxels.shape, np.float32)
    half = replace(encoding.windows.volume, shape=(2, 8, 8))  # in the middle of the window along z
    windows = replace(encoding.windows, voxels=voxels, volume=half)
    found = reconstruction_error(replace(encoding, windows=windows), Decodes(-1000.0), PREPROCESSING)
    real = voxels[:, 0, 1:3].astype(np.float64)
    simple = np.abs(real - real.mean((1, 2, 3), keepdims=True)).mean()
    assert found.ratio == pytest.approx(real.mean() / simple, rel=1e-5)


def test_the_means_are_those_of_blocks_and_of_what_is_left_at_the_ends():
    shape = (BLOCK, BLOCK + 3, 2 * BLOCK + 1)
    window = np.random.default_rng(4).random(shape, np.float32)
    inside = tuple(np.random.default_rng(n).random(n).astype(np.float32) for n in shape)
    inside[0][:] = 1.0
    weights = inside[0][:, None, None] * inside[1][:, None] * inside[2]
    found = block_means(window, inside)
    for y in (slice(0, BLOCK), slice(BLOCK, None)):
        for x in (slice(0, BLOCK), slice(BLOCK, 2 * BLOCK), slice(2 * BLOCK, None)):
            expected = np.average(window[:, y, x].astype(np.float64), weights=weights[:, y, x])
            assert np.allclose(found[:, y, x], expected, rtol=1e-5)


def test_a_block_outside_the_scan_has_the_mean_of_nothing():
    outside = np.zeros(BLOCK, np.float32), np.ones(BLOCK, np.float32), np.ones(BLOCK, np.float32)
    assert not block_means(np.ones((BLOCK,) * 3, np.float32), outside).any()


def test_a_decoder_that_gives_nan_fails_the_series():
    with pytest.raises(SeriesFailed, match="NON_FINITE_FEATURES: the decoder"):
        measured(reference(9, decoder=Decodes(np.nan)))
