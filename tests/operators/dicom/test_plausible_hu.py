"""Values that cannot be HU are rejected, in a histogram and in a series; every kind of real scan passes."""

from __future__ import annotations

import numpy as np
import pytest

from models.phantom import PhantomFactors, make_phantom
from models.spec import Preprocessing
from operators.build_volume import build_volume
from operators.dicom.plausible_hu import histogram_of, why_not_hu
from operators.errors import SeriesRejected, SeriesSkipped
from operators.geometry.policy import GeometryPolicy
from operators.preprocess import preprocess
from operators.read_study import read_studies
from operators.series.ct_images import keep_ct_images
from tests.support.checkout import SHARED_FAULTS, skip_or_fail
from tests.support.tiny_ct import put, write_tiny_ct

SETTINGS = Preprocessing("window", (8, 16, 16), (5.0, 12.0, 12.0), (-1000.0, 1000.0))
RANDOM = np.random.default_rng(3)


@pytest.fixture(scope="module")
def chest() -> np.ndarray:
    """int16 HU (D, H, W) of a chest with noise."""
    hu = make_phantom(PhantomFactors(), shape=(12, 96, 96), spacing_mm=(12.0, 4.0, 4.0), seed=1)
    return np.clip(hu + RANDOM.normal(0, 20, hu.shape), -1024, 3071).astype(np.int16)


def found(hu: np.ndarray) -> str | None:
    return why_not_hu(histogram_of(np.asarray(hu, np.int16).reshape(-1, hu.shape[-1]), None))


def tissue(*parts: tuple[float, float, float]) -> np.ndarray:
    """int16 HU of parts (share, mean, standard deviation)."""
    drawn = [RANDOM.normal(mean, sd, round(128 * 128 * share)) for share, mean, sd in parts]
    return RANDOM.permutation(np.concatenate(drawn))[:16000].astype(np.int16).reshape(125, 128)


@pytest.mark.parametrize(
    "hu",
    [
        tissue((0.3, -100, 15), (0.4, 50, 15), (0.3, 300, 150)),  # a spine, no air in the field of view
        tissue((0.3, 35, 8), (0.05, -80, 30), (0.65, 800, 400)),  # a temporal bone, with fat outside of it
        tissue((0.02, -900, 50), (0.38, 40, 60), (0.6, 900, 500)),  # a skull base with air cells
        tissue((0.85, 35, 6), (0.1, 5, 6), (0.05, 700, 300)),  # a brain with its ventricles, in its skull
        tissue((0.03, 10000, 3000), (0.3, 40, 20), (0.3, -100, 20), (0.37, 300, 200)),  # a prosthesis
        tissue((0.98, -1000, 10), (0.01, 50, 10), (0.01, 400, 300)),  # a finger in a large field of view
        tissue((0.2, -3024, 0), (0.4, -870, 40), (0.3, 40, 20), (0.1, 300, 200)),  # outside of the scan circle
        tissue((0.2, -2048, 60), (0.4, -990, 40), (0.3, 40, 20), (0.1, 300, 200)),  # the same, compressed with loss
    ],
)
def test_scans_of_small_and_odd_fields_of_view_pass(hu):
    assert found(hu) is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda hu: hu % 4096,  # negative values wrapped in 12 bits
        lambda hu: hu % 4096 - 1024,
        lambda hu: hu + 1024,  # the intercept is missing
        lambda hu: hu - 1024,  # or applied twice
        lambda hu: (hu + 1000) * 1.06,  # a cone beam's grey values
        lambda hu: hu * 7,
        lambda hu: (hu + 1000) * 7 - 1000,
        lambda hu: hu // 10,
        lambda hu: (hu + 1000) / 2000,
        lambda hu: hu.astype(np.int16).byteswap(),
        lambda hu: np.where(hu < 0, 32767, hu),  # negative values read as unsigned
    ],
)
def test_grey_values_that_cannot_be_hu_do_not(chest, wrong):
    assert found(chest) is None
    assert found(np.clip(wrong(chest.astype(np.int64)), -32768, 32767)) is not None


def volume(folder, stored, policy=None, **options):
    write_tiny_ct(folder, stored, spacing_mm=(12.0, 4.0, 4.0), **options)
    [study] = read_studies(folder).studies
    return build_volume(keep_ct_images(study.series[0]), policy or GeometryPolicy())


def test_a_series_that_is_not_in_hu_is_rejected_after_its_slices_were_decoded_once(tmp_path, chest):
    wrong = volume(tmp_path, (chest.astype(np.int32) + 1024).astype(np.uint16))
    with pytest.raises(SeriesRejected, match="NOT_HU") as caught:
        preprocess(wrong, SETTINGS)
    assert "nothing below 0" in caught.value.message


def test_by_policy_it_is_kept_with_a_finding(tmp_path, chest):
    kept = volume(tmp_path, (chest.astype(np.int32) + 1024).astype(np.uint16), GeometryPolicy(implausible_hu="keep"))
    codes = [finding.code for finding in preprocess(kept, SETTINGS).findings]
    assert codes == ["NOT_HU"]


def test_declared_padding_is_no_value_of_the_scan(tmp_path, chest):
    """Air that stands for padding must not hide that nothing else is below zero."""
    stored = (chest.astype(np.int32) + 1024).astype(np.int16)
    stored[:, :20] = -1000
    wrong = volume(tmp_path, stored, change=lambda ds, d: put(ds, PixelPaddingValue=-1000))
    with pytest.raises(SeriesRejected):
        preprocess(wrong, SETTINGS)


@pytest.mark.parametrize("fault", ["negative-wrapped-in-12-bits", "cbct-intercept-0"])
def test_the_made_faults_are_rejected(fault):
    if not (SHARED_FAULTS / fault).exists():
        skip_or_fail(f"no ../shared/faults/{fault} beside this checkout")
    [study] = read_studies(SHARED_FAULTS / fault).studies
    with pytest.raises(SeriesRejected, match="NOT_HU"):
        preprocess(build_volume(keep_ct_images(study.series[0])), SETTINGS)


def test_every_real_series_that_the_gate_passes_is_in_hu(shared_ct):
    passed = 0
    for study in read_studies(shared_ct(".")).studies:
        for series in study.series:
            if series.image or "nema" in series.folder:
                continue
            try:
                one = build_volume(keep_ct_images(series))
            except (SeriesRejected, SeriesSkipped):
                continue
            chosen = range(0, one.shape[0], max(1, one.shape[0] // 6))
            histograms = [one.read_slice(d).histogram for d in chosen]
            assert why_not_hu(np.sum(histograms, axis=0)) is None, series.folder
            passed += 1
    assert passed > 40
