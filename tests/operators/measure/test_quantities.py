"""What the voxels themselves say, against windows whose content is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from models.statistics.tissues import TISSUES_HU
from operators.measure.quantities import (
    QUANTITIES,
    measure_quantities,
    outline_compactness,
    window_quantities,
)
from operators.measure.texture import glcm_contrast, gradient_hu_per_mm, local_sd_hu
from tests.support.records import made_windows

WINDOW_HU = (-1000.0, 1000.0)


def body(**put: tuple[float, tuple]) -> np.ndarray:
    """Air around a 6 × 6 body of 40 HU in each of 4 slices, with HU put at given places."""
    hu = np.full((4, 8, 8), -1000.0)
    hu[:, 1:7, 1:7] = 40.0
    for value, place in put.values():
        hu[place] = value
    return hu


def test_a_plain_body_is_soft_tissue():
    measured = measure_quantities(made_windows(body()), WINDOW_HU)

    assert measured["mean_hu"] == pytest.approx(40, abs=1e-3)
    assert measured["body_area_cm2"] == pytest.approx(36 * 0.16)
    assert measured["soft_tissue_fraction"] == 1 and measured["lung_fraction"] == 0


def test_enclosed_air_is_lung_and_part_of_the_body():
    inside = (slice(None), slice(2, 5), slice(2, 5))

    measured = measure_quantities(made_windows(body(lung=(-850.0, inside))), WINDOW_HU)

    assert measured["body_area_cm2"] == pytest.approx(36 * 0.16)
    assert measured["lung_fraction"] == pytest.approx(9 / 36)
    assert measured["emphysema_fraction"] is None  # 3 cm³ of gas are no lung


def test_emphysema_is_a_part_of_the_lung():
    lung, worse = (slice(None), slice(2, 5), slice(2, 5)), (slice(None), slice(2, 5), 2)
    windows = made_windows(body(lung=(-850.0, lung), worse=(-980.0, worse)))

    measured = measure_quantities(replace(windows, spacing_mm=(10.0, 8.0, 8.0)), WINDOW_HU)

    assert measured["emphysema_fraction"] == pytest.approx(3 / 9)


def test_every_hu_of_a_body_is_in_exactly_one_tissue():
    for hu in np.arange(-1100.0, 3072.0, 0.25):
        assert sum(low <= hu < high for low, high in TISSUES_HU.values()) == 1


def test_voxels_where_windows_overlap_count_once():
    """A lung in the slices that two of three windows share does not count twice."""
    hu = np.concatenate([body(), body(lung=(-850.0, (slice(0, 2), slice(2, 5), slice(2, 5))))])
    whole = made_windows(hu)
    starts = [0, 2, 4]
    affines = np.stack([whole.affines_lps_mm[0]] * 3)
    affines[:, :3, 3] += np.outer(starts, affines[0][:3, 0])
    cut = np.stack([whole.voxels[0, :, start : start + 4] for start in starts])

    several = replace(whole, voxels=cut, affines_lps_mm=affines, real_fraction=np.ones(3, np.float32))
    measured = measure_quantities(several, WINDOW_HU)

    assert measured == measure_quantities(whole, WINDOW_HU)
    assert measured["lung_fraction"] == pytest.approx(18 / (8 * 36))


def test_fat_and_bone_are_told_apart():
    fat, bone = (slice(None), 1, slice(1, 7)), (slice(None), 4, slice(3, 5))

    measured = measure_quantities(made_windows(body(fat=(-100.0, fat), bone=(600.0, bone))), WINDOW_HU)

    assert measured["fat_fraction"] == pytest.approx(6 / 36)
    assert measured["bone_fraction"] == pytest.approx(2 / 36)


def test_without_a_body_nothing_is_invented():
    measured = measure_quantities(made_windows(np.full((4, 8, 8), -1000.0)), WINDOW_HU)

    assert set(measured.values()) == {None}


def test_a_fraction_whose_range_the_bundle_clips_away_is_none():
    measured = measure_quantities(made_windows(body()), (-160.0, 240.0))

    assert measured["emphysema_fraction"] is None and measured["soft_tissue_fraction"] is not None


def test_a_window_and_a_series_of_that_one_window_agree():
    inside = (slice(None), slice(2, 5), slice(2, 5))
    windows = made_windows(body(lung=(-850.0, inside), bone=(600.0, (slice(None), 5, slice(2, 5)))))

    of_window = window_quantities(-1000 + 2000 * windows.voxels[0, 0].astype(np.float64), windows.spacing_mm)

    of_series = measure_quantities(windows, WINDOW_HU)
    assert set(of_window) == set(of_series) == set(QUANTITIES)
    for name in set(QUANTITIES) - {"emphysema_fraction"}:
        assert of_series[name] == pytest.approx(of_window[name], rel=1e-6), name


def test_a_window_without_body_is_nan_throughout():
    assert all(map(math.isnan, window_quantities(np.full((4, 8, 8), -1000.0), (4, 4, 4)).values()))


def test_glcm_contrast_of_levels_that_16_bits_cannot_add_up():
    hu = np.zeros((3, 3, 3), np.float32)
    hu[1, 1, 1] = 32000.0

    assert glcm_contrast(hu, np.ones(hu.shape, bool)) == pytest.approx(26 * 1280**2 / 158)


def test_local_sd_is_that_of_27_voxels():
    hu = np.random.default_rng(0).normal(40, 30, (5, 6, 7)).astype(np.float32)
    mask = np.zeros(hu.shape, bool)
    mask[2, 3, 4] = True

    assert local_sd_hu(hu, mask) == pytest.approx(hu[1:4, 2:5, 3:6].std(), rel=1e-4)


def test_gradient_of_a_ramp_is_its_slope():
    z, y, x = np.meshgrid(*(np.arange(n) for n in (5, 6, 7)), indexing="ij")
    ramp = (2.0 * 3.0 * z - 1.0 * 4.0 * y + 2.0 * 5.0 * x).astype(np.float32)

    assert gradient_hu_per_mm(ramp, np.ones(ramp.shape, bool), (3.0, 4.0, 5.0)) == pytest.approx(3.0, rel=1e-5)


def test_glcm_contrast_is_that_of_the_matrix():
    rng = np.random.default_rng(1)
    hu, mask = rng.normal(0, 80, (4, 5, 6)).astype(np.float32), rng.random((4, 5, 6)) < 0.7
    levels = np.floor(hu / 25).astype(int) - int(np.floor(hu.min() / 25))
    matrix = np.zeros((levels.max() + 1,) * 2)
    voxels = [tuple(voxel) for voxel in np.argwhere(mask)]
    for one in voxels:
        for other in voxels:
            if max(abs(a - b) for a, b in zip(one, other, strict=True)) == 1:
                matrix[levels[one], levels[other]] += 1
    i, j = np.indices(matrix.shape)

    assert glcm_contrast(hu, mask) == pytest.approx((matrix / matrix.sum() * (i - j) ** 2).sum(), rel=1e-9)


def test_glcm_contrast_of_a_single_voxel_is_nan():
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True

    assert math.isnan(glcm_contrast(np.zeros((3, 3, 3), np.float32), mask))


def test_a_disc_is_compact_and_two_discs_are_half_as_compact():
    y, x = np.indices((200, 400)) + 0.5
    one = np.hypot(y - 100, x - 100) < 80
    two = one | (np.hypot(y - 100, x - 300) < 80)

    assert outline_compactness(one[None], (3.0, 1.5, 1.5)) == pytest.approx(1.0, abs=0.02)
    assert outline_compactness(two[None], (3.0, 1.5, 1.5)) == pytest.approx(0.5, abs=0.02)


def test_two_lungs_are_two_pieces_and_a_bubble_is_none():
    hu = np.full((10, 40, 40), -1000.0)
    hu[:, 2:38, 2:38] = 40.0
    for columns in (slice(6, 16), slice(24, 34)):
        hu[:, 10:30, columns] = -850.0
    hu[4, 34, 34] = -900.0

    assert window_quantities(hu, (4.0, 4.0, 4.0))["lung_pieces"] == 2


def test_without_lung_there_is_no_emphysema_to_measure():
    assert math.isnan(window_quantities(body(), (5.0, 4.0, 4.0))["emphysema_fraction"])
