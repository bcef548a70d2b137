"""The phantom is a chest, the same one every time, and its factors can be measured on it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from models.phantom import (
    FACTOR_RANGES,
    PhantomFactors,
    make_phantom,
    phantom_slices,
    sample_factors,
    sample_varied_factors,
)
from tests.support.checkout import ROOT

SHAPE, SPACING_MM = (25, 120, 128), (12.0, 3.2, 3.4)
QUIET = PhantomFactors(noise_hu=0, kernel_mm=0, table=False)
VOXEL_ML = float(np.prod(SPACING_MM)) / 1000


def phantom(seed=0, **factors):
    return make_phantom(replace(QUIET, **factors), SHAPE, SPACING_MM, seed)


def inside_body(hu):
    """Voxels of the widest contiguous body: between the first and last dense voxel of each row."""
    dense = hu > -300
    return np.maximum.accumulate(dense, axis=2) & np.maximum.accumulate(dense[:, :, ::-1], axis=2)[:, :, ::-1]


def lungs(hu):
    return inside_body(hu) & (hu < -700)


def test_equal_arguments_give_equal_arrays():
    factors = PhantomFactors()
    assert np.array_equal(
        make_phantom(factors, (4, 40, 50), (40, 9, 8), 3), make_phantom(factors, (4, 40, 50), (40, 9, 8), 3)
    )


def test_another_seed_gives_another_patient():
    assert not np.array_equal(phantom(seed=1), phantom(seed=2))


def test_it_is_int16_hu_of_the_shape_that_was_asked_for():
    hu = phantom()
    assert hu.dtype == np.int16 and hu.shape == SHAPE and hu.min() >= -1024 and 300 < hu.max() <= 3071


def test_slices_are_those_of_the_volume():
    assert np.array_equal(np.stack(list(phantom_slices(QUIET, SHAPE, SPACING_MM))), phantom())


def test_axes_go_to_head_back_and_left():
    hu = make_phantom(replace(QUIET, table=True, contrast_hu=200), SHAPE, SPACING_MM)
    air = lungs(hu).sum((1, 2))
    assert air[: SHAPE[0] // 4].sum() < 0.02 * air.sum()  # liver at the feet's end
    spine = (hu > 300)[:, :, SHAPE[2] // 2 - 8 : SHAPE[2] // 2 + 8]
    assert spine[:, SHAPE[1] // 2 :].sum() > 3 * spine[:, : SHAPE[1] // 2].sum()  # more of it than of the sternum
    heart = (hu > 200) & (hu < 260)
    assert heart[:, :, SHAPE[2] // 2 :].sum() > 2 * heart[:, :, : SHAPE[2] // 2].sum()


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.35])
def test_emphysema_is_that_part_of_the_lungs(fraction):
    hu = phantom(emphysema_fraction=fraction)
    assert np.mean(hu[lungs(hu)] < -940) == pytest.approx(fraction, abs=0.04)


def test_noise_has_its_standard_deviation_after_the_kernel():
    factors = replace(QUIET, noise_hu=25, kernel_mm=1.5)
    noise = make_phantom(factors, (6, 256, 256), (5, 0.8, 0.8)).astype(float) - make_phantom(
        replace(factors, noise_hu=0), (6, 256, 256), (5, 0.8, 0.8)
    )
    assert noise[:, 100:150, 20:230].std() == pytest.approx(25, rel=0.05)


def test_contrast_is_added_to_blood():
    heart = (11, 52, 71)
    assert int(phantom(contrast_hu=180)[heart]) - int(phantom(contrast_hu=0)[heart]) == 180


def test_the_body_is_as_wide_as_it_says():
    width = inside_body(phantom(body_width_mm=320, fat_mm=20))[12].any(0).sum() * SPACING_MM[2]
    assert width == pytest.approx(320 + 2 * 20, abs=2 * SPACING_MM[2])


def test_larger_lungs_hold_more_air_by_the_third_power():
    small, large = (lungs(phantom(lung_scale=scale)).sum() * VOXEL_ML for scale in (0.85, 1.05))
    assert 1500 < small < large < 6500
    assert large / small == pytest.approx((1.05 / 0.85) ** 3, rel=0.15)


def test_a_nodule_adds_its_volume():
    shape, spacing_mm = (61, 200, 200), (3.0, 1.9, 1.9)
    there, none = (make_phantom(replace(QUIET, nodule_diameter_mm=mm), shape, spacing_mm) for mm in (28, 0))
    assert np.count_nonzero(np.abs(there.astype(int) - none) > 300) * np.prod(spacing_mm) == pytest.approx(
        np.pi / 6 * 28**3, rel=0.1
    )


def test_the_spine_moves_to_the_left():
    middle = slice(SHAPE[2] // 2 - 14, SHAPE[2] // 2 + 14)
    column = [np.argwhere(phantom(spine_offset_mm=mm)[0, 60:, middle] > 500)[:, 1].mean() for mm in (-15, 15)]
    assert (column[1] - column[0]) * SPACING_MM[2] == pytest.approx(30, abs=2)


def lung_voxels(hu: np.ndarray) -> tuple[int, int]:
    """How many of them are on the right and on the left of the middle column; columns go from right to left."""
    lung = (hu > -960) & (hu < -600)
    middle = hu.shape[2] // 2
    return int(lung[:, :, :middle].sum()), int(lung[:, :, middle:].sum())


def test_an_asymmetric_chest_has_the_larger_lung_on_the_left():
    even, uneven = (
        make_phantom(replace(PhantomFactors(), lung_asymmetry=by, table=False, nodule_diameter_mm=0), SHAPE, SPACING_MM)
        for by in (0.0, 0.3)
    )
    assert lung_voxels(uneven)[1] > 1.5 * lung_voxels(uneven)[0]
    assert lung_voxels(even)[1] < 1.3 * lung_voxels(even)[0]


def test_a_patient_elsewhere_in_the_field_is_the_same_patient_there():
    factors = replace(PhantomFactors(), noise_hu=0.0, body_width_mm=290.0)
    here = make_phantom(factors, SHAPE, SPACING_MM)
    moved = make_phantom(replace(factors, position_mm=(2 * SPACING_MM[1], -3 * SPACING_MM[2])), SHAPE, SPACING_MM)
    inner = here[:, 5:-5, 5:-5].astype(int)
    assert (np.abs(moved[:, 7:-3, 2:-8].astype(int) - inner) <= 1).mean() > 0.999


def test_a_gap_leaves_air_between_back_and_couch():
    gaps = [make_phantom(replace(PhantomFactors(), table_gap_mm=gap), SHAPE, SPACING_MM)[20] for gap in (0.0, 20.0)]
    column = [plane[:, SHAPE[2] // 2] for plane in gaps]
    last_dense = [int(np.flatnonzero(values > -700)[-1]) for values in column]
    assert (last_dense[1] - last_dense[0]) * SPACING_MM[1] == pytest.approx(20, abs=SPACING_MM[1])


def test_varied_factors_vary_in_how_the_patient_lies_too():
    drawn = [sample_varied_factors(np.random.default_rng(seed)) for seed in range(30)]
    assert {one.table for one in drawn} == {True, False}
    for name in ("table_gap_mm", "lung_asymmetry", "position_mm", "body_width_mm"):
        assert len({getattr(one, name) for one in drawn}) == 30


def test_factors_are_drawn_within_their_ranges():
    rng = np.random.default_rng(0)
    drawn = [sample_factors(rng) for _ in range(200)]
    for name, (low, high) in FACTOR_RANGES.items():
        values = [getattr(factors, name) for factors in drawn]
        assert low <= min(values) < low + 0.1 * (high - low) and high - 0.1 * (high - low) < max(values) <= high


@pytest.mark.parametrize("seed", range(3))
def test_any_drawn_factors_make_a_chest(seed):
    hu = make_phantom(sample_factors(np.random.default_rng(seed)), SHAPE, SPACING_MM, seed)
    assert 1500 < lungs(hu).sum() * VOXEL_ML < 8000


def test_it_needs_numpy_alone():
    code = (
        "import sys, models.phantom; print([m for m in ('scipy', 'torch', 'pydicom', 'operators') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
