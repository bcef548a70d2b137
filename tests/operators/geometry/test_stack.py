"""Heights of slices that are a regular stack, but for rounding, are one; a slice is missing only where one is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from operators.errors import SeriesRejected
from operators.geometry.line import nearest_line
from operators.geometry.policy import NO_REPAIR, GeometryPolicy
from operators.geometry.stack import allowed_off_grid_mm, slice_tilt, stack_slices

INTERPOLATE = GeometryPolicy(missing_slice="interpolate")

spacings = st.floats(0.4, 5.0).map(lambda value: round(value, 3))
starts = st.floats(-500, 500).map(lambda value: round(value, 3))


@given(spacing=spacings, start=starts, slices=st.integers(4, 80))
def test_positions_rounded_to_a_tenth_of_a_millimetre_are_regular_from_any_start(spacing, start, slices):
    heights = np.round(start + spacing * np.arange(slices), 1)
    assume((np.diff(heights) > 0.01).all())
    stack = stack_slices(heights, NO_REPAIR)
    places = heights[0] + stack.first_mm + stack.spacing_mm * np.arange(slices)
    assert stack.sources is None
    assert np.abs(heights - places).max() <= allowed_off_grid_mm(stack.spacing_mm) + 1e-9
    assert stack.spacing_mm == pytest.approx(spacing, abs=0.1 / (slices - 1) + 1e-9)


def test_every_start_of_slices_0_625_mm_apart_is_regular():
    for start in np.arange(300) / 40:
        assert stack_slices(np.round(start + 0.625 * np.arange(40), 1), NO_REPAIR).spacing_mm == pytest.approx(
            0.625, abs=3e-3
        )


@given(spacing=spacings, start=starts, slices=st.integers(20, 60), data=st.data())
def test_slices_that_are_missing_are_counted_though_the_positions_are_rounded(spacing, start, slices, data):
    gone = {3 * d for d in data.draw(st.sets(st.integers(1, (slices - 2) // 3), min_size=1, max_size=3))}
    heights = np.round(start + spacing * np.array([d for d in range(slices) if d not in gone]), 1)
    with pytest.raises(SeriesRejected) as caught:
        stack_slices(heights, NO_REPAIR)
    assert caught.value.reason == "MISSING_SLICE" and f" {len(gone)} missing in all" in caught.value.message


@given(heights=st.lists(st.floats(0, 60), min_size=4, max_size=30, unique=True))
def test_whatever_the_heights_no_slice_is_missing_where_none_is(heights):
    heights = np.sort(np.array(heights))
    assume((np.diff(heights) > 0.01).all())
    for policy in (NO_REPAIR, INTERPOLATE):
        try:
            stack = stack_slices(heights, policy)
        except SeriesRejected as error:
            assert " 0 missing" not in error.message
        else:
            assert stack.sources is None or stack.filled


def test_an_interpolated_slice_lies_on_the_grid_of_rounded_positions():
    heights = np.delete(np.round(-9.375 + 0.625 * np.arange(40), 1), 17)
    stack = stack_slices(heights, INTERPOLATE)
    assert stack.filled == (17,)
    assert heights[0] + stack.first_mm + 17 * stack.spacing_mm == pytest.approx(-9.375 + 17 * 0.625, abs=0.06)


@given(
    slope=st.floats(0.1, 10),
    heights=st.lists(st.floats(-0.05, 0.05), min_size=4, max_size=40),
    first=st.floats(-50, 50),
)
def test_the_nearest_line_is_never_farther_off_than_the_one_that_was_drawn(slope, heights, first):
    places = np.arange(len(heights))
    line = nearest_line(first + slope * places + np.array(heights), places)
    assert line.off_mm <= max(map(abs, heights)) + 1e-9


def test_origins_rounded_to_a_tenth_of_a_millimetre_are_not_shifted_however_small_the_pixels():
    """Of a temporal bone: pixels of 0.15 mm; half of one is less than two roundings, and more than one."""
    positions = np.array([[-20.05, 3.05, 0.6 * d] for d in range(30)])
    positions[0] = [-20.1, 3.0, 0.0]
    positions[1:, :2] = np.where(np.arange(29)[:, None] % 2, [-20.0, 3.0], [-20.0, 3.1])
    assert slice_tilt(positions, np.array([0.0, 0.0, 1.0]), 0.2, NO_REPAIR) is None


def test_a_slice_out_of_line_is_still_shifted():
    positions = np.array([[0.0, 0.0, 2.0 * d] for d in range(10)])
    positions[4, 1] = 0.4
    with pytest.raises(SeriesRejected, match="SHIFTED_SLICES"):
        slice_tilt(positions, np.array([0.0, 0.0, 1.0]), 0.5, NO_REPAIR)
