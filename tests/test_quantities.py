"""What the voxels themselves say, against windows whose content is known."""

from __future__ import annotations

import numpy as np
import pytest

from operators.quantities import measure_quantities
from tests.records import made_windows

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
    assert measured["emphysema_fraction"] == 0


def test_emphysema_is_a_part_of_the_lung():
    lung, worse = (slice(None), slice(2, 5), slice(2, 5)), (slice(None), slice(2, 5), 2)

    measured = measure_quantities(made_windows(body(lung=(-850.0, lung), worse=(-980.0, worse))), WINDOW_HU)

    assert measured["emphysema_fraction"] == pytest.approx(3 / 9)


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
