"""The probes that count, each against windows whose shape, place and noise are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from models.phantom import PhantomFactors, make_phantom
from operators.measure.probe_targets import SEEDS, TARGETS, probe_targets

SHAPE, SPACING_MM = (6, 96, 96), (3.0, 4.0, 4.0)


def chest(**factors: float) -> dict[str, float]:
    """The targets of a phantom without a table; its noise is drawn anew for no one."""
    made = replace(PhantomFactors(table=False, kernel_mm=0.0), **factors)
    return probe_targets(make_phantom(made, SHAPE, SPACING_MM, seed=1), SPACING_MM)


def ellipse(
    half_mm: tuple[float, float] = (80.0, 120.0), *, at_mm: tuple[float, float] = (0.0, 0.0), hu: float = 40.0
) -> np.ndarray:
    """Air around an elliptic cylinder (rows, columns), its axis at a place from the window's centre."""
    window = np.full(SHAPE, -1000.0)
    window[:, inside(half_mm, at_mm)] = hu
    return window


def inside(half_mm: tuple[float, float], at_mm: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    rows, columns = ((np.arange(96) - 47.5) * 4.0 - at for at in at_mm)
    return (rows[:, None] / half_mm[0]) ** 2 + (columns[None] / half_mm[1]) ** 2 <= 1


def test_a_window_without_a_body_has_no_targets():
    found = probe_targets(np.full(SHAPE, -1000.0), SPACING_MM)
    assert list(found) == list(TARGETS)
    assert all(math.isnan(value) for value in found.values())


def test_all_targets_of_a_chest_are_finite():
    assert all(math.isfinite(value) for value in chest().values())


def test_a_body_that_is_its_own_mirror_image_has_no_asymmetry():
    found = probe_targets(ellipse(at_mm=(0.0, 20.0)), SPACING_MM)
    assert found["left_right_asymmetry_hu"] == pytest.approx(0.0, abs=1e-9)


def test_asymmetry_is_the_difference_between_the_sides():
    window = ellipse()
    window[:, :, 48:] = np.where(window[:, :, 48:] > 0, 100.0, window[:, :, 48:])
    assert probe_targets(window, SPACING_MM)["left_right_asymmetry_hu"] == pytest.approx(60.0)


def test_the_ratio_of_front_to_side_is_that_of_the_half_axes():
    assert probe_targets(ellipse((80.0, 120.0)), SPACING_MM)["front_to_side_ratio"] == pytest.approx(2 / 3, abs=0.01)


def test_the_body_is_where_it_was_put():
    found = probe_targets(ellipse(at_mm=(24.0, -40.0)), SPACING_MM)
    assert (found["body_row_mm"], found["body_column_mm"]) == pytest.approx((24.0, -40.0), abs=1.0)


def test_the_spine_of_a_phantom_moves_by_what_the_factor_says():
    left, right = chest(spine_offset_mm=16.0), chest(spine_offset_mm=-16.0)
    assert left["spine_column_mm"] - right["spine_column_mm"] == pytest.approx(32.0, abs=4.0)
    assert left["spine_row_mm"] > 30.0  # behind the middle of the body


def test_bone_too_small_for_a_spine_has_no_place():
    window = ellipse()
    window[2, 47:49, 47:49] = 500.0  # 0.2 cm³
    assert math.isnan(probe_targets(window, SPACING_MM)["spine_row_mm"])


@pytest.mark.parametrize("shell_mm", [12.0, 24.0])
def test_the_fat_shell_is_as_thick_as_it_was_made(shell_mm):
    window = ellipse((80.0 + shell_mm, 80.0 + shell_mm), hu=-100.0)
    window[:, inside((80.0, 80.0))] = 40.0
    # A ring's area over the inner outline is a little more than its thickness; the skin is taken off.
    thickness = shell_mm - 4.0
    expected = thickness * (1 + thickness / 160.0)
    assert probe_targets(window, SPACING_MM)["fat_shell_mm"] == pytest.approx(expected, abs=2.5)


def test_a_phantom_with_more_fat_has_a_thicker_shell():
    assert chest(fat_mm=28.0)["fat_shell_mm"] - chest(fat_mm=8.0)["fat_shell_mm"] == pytest.approx(20.0, abs=5.0)


def test_small_gas_counts_and_a_lung_does_not():
    window = ellipse()
    window[:, 40:44, 40:44] = -800.0  # 4.6 cm³
    found = probe_targets(window, SPACING_MM)["gas_outside_lungs_fraction"]
    assert found == pytest.approx(16 / inside((80.0, 120.0)).sum())
    window[:, 36:50, 36:50] = -800.0  # 56 cm³
    assert probe_targets(window, SPACING_MM)["gas_outside_lungs_fraction"] == 0.0


def test_the_noise_of_soft_tissue_is_the_noise_that_was_added():
    rng = np.random.default_rng(0)
    window = ellipse(hu=60.0)
    window += np.where(window > 0, rng.normal(0.0, 12.0, SHAPE), 0.0)
    assert probe_targets(window, SPACING_MM)["soft_tissue_noise_hu"] == pytest.approx(12.0, rel=0.05)


def test_two_legs_are_two_parts_and_a_crumb_is_none():
    window = np.maximum(ellipse((60.0, 60.0), at_mm=(0.0, -80.0)), ellipse((60.0, 60.0), at_mm=(0.0, 80.0)))
    window[0, 2:4, 2:4] = 40.0
    assert probe_targets(window, SPACING_MM)["body_parts"] == 2.0


def test_the_skewness_is_that_of_two_values():
    window = ellipse(hu=40.0)
    body = window > 0
    window[0][body[0]] = 100.0  # a sixth of the body
    share = 1 / 6
    expected = (1 - 2 * share) / math.sqrt(share * (1 - share))
    assert probe_targets(window, SPACING_MM)["soft_tissue_skewness"] == pytest.approx(expected)


def test_the_seeds_are_fixed():
    assert SEEDS == (0, 1, 2)
