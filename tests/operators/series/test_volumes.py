"""Passes, phases and interleaved stacks in one series: parts where they are several volumes, else whole."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from operators.build_volume import build_volume
from operators.series.ct_images import keep_ct_images
from operators.types import Series
from tests.operators.series.test_split import parts_of, reason, told_by, voxels
from tests.operators.test_build_volume import codes, only_series, rejected, volume_of
from tests.support.tiny_ct import put, stored_values, write_tiny_ct

TAGS: dict[str, tuple[object, ...]] = {
    "AcquisitionNumber": (2, 3, 10, 11),
    "TemporalPositionIdentifier": (1, 2, 3, 4),
    "NominalPercentageOfCardiacPhase": (5, 40, 75, 90),
    "ConvolutionKernel": ("B30f", "B70f", "I50", "STANDARD"),
    "AcquisitionTime": ("093000", "093011.5", "0931", "10"),
    "TriggerTime": (-5, 0, 100, 2000),
}


def write_passes(folder: Path, heights: list[np.ndarray], keyword: str, thickness_mm: float | None = 2.0) -> np.ndarray:
    """Slices at these heights, a value of the tag for each pass; their stored values in order."""
    every = [(number, float(height)) for number, of_pass in enumerate(heights) for height in of_pass]
    stored = stored_values(len(every))

    def change(dataset, d):
        number, height = every[d]
        put(dataset, ImagePositionPatient=[0, 0, height], SliceThickness=thickness_mm, InstanceNumber=d + 1)
        put(dataset, **{keyword: TAGS[keyword][number]})

    write_tiny_ct(folder, stored, change=change)
    return stored


def assert_passes(parts: list[Series], heights: list[np.ndarray], stored: np.ndarray) -> None:
    assert [series.part for series in parts] == list(range(1, len(heights) + 1))
    first = 0
    for series, of_pass in zip(parts, heights, strict=True):
        np.testing.assert_array_equal(voxels(series), stored[first : first + len(of_pass)])
        first += len(of_pass)


PASSES = {
    "overlap": [(0, 14), (10, 14), (20, 14)],
    "one within the other": [(0, 20), (5, 6)],
    "three phases of other ranges": [(0, 20), (4, 26), (18, 12)],
    "a gap between them": [(0, 10), (18, 10)],
    "a gap of two slices": [(0, 10), (12, 10)],
    "off each other's grid": [(0, 10), (10.4, 10)],
    "off each other's grid, and overlapping": [(0, 10), (6.3, 10)],
    "backwards": [(20, 10), (0, 25)],
}


@pytest.mark.parametrize("ranges", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize("keyword", ["AcquisitionNumber", "AcquisitionTime", "ConvolutionKernel"])
def test_passes_are_parts_whatever_range_each_covers(tmp_path, ranges, keyword):
    heights = [2.0 * (first + np.arange(count)) for first, count in ranges]
    stored = write_passes(tmp_path, heights, keyword)
    parts = parts_of(tmp_path)
    assert_passes(parts, heights, stored)
    assert f"distinguished by {keyword}:" in told_by(parts[0])


@settings(max_examples=25)
@given(data=st.data(), keyword=st.sampled_from(sorted(TAGS)))
def test_the_passes_that_were_drawn_are_the_parts(data, keyword):
    drawn = st.tuples(st.integers(0, 25), st.integers(4, 12), st.sampled_from([0.0, 0.37]))
    passes = data.draw(st.lists(drawn, min_size=2, max_size=4))
    for number, (first, count, off) in enumerate(passes):
        for first_2, count_2, off_2 in passes[:number]:
            between = max(first, first_2) - min(first + count, first_2 + count_2)
            assume(off != off_2 or between not in (0, 1))  # the one goes on where the other ended, or one slice is lost
    heights = [2.0 * (first + off + np.arange(count)) for first, count, off in passes]
    with tempfile.TemporaryDirectory() as folder:
        stored = write_passes(Path(folder), heights, keyword)
        assert_passes(parts_of(Path(folder)), heights, stored)


def test_rotations_of_two_overlapping_passes_stay_together(tmp_path):
    heights = [2.0 * (first + np.arange(5)) for first in (0, 5, 3, 8)]
    stored = write_passes(tmp_path, heights, "AcquisitionNumber")
    assert_passes(parts_of(tmp_path), [np.concatenate(heights[:2]), np.concatenate(heights[2:])], stored)


def test_a_pass_that_was_broken_off_is_a_part_that_the_gate_rejects(tmp_path):
    heights = [2.0 * np.arange(8), 50 + 2.0 * np.arange(6), 90 + 2.0 * np.arange(3)]
    stored = write_passes(tmp_path, heights, "AcquisitionNumber")
    first, second, broken_off = parts_of(tmp_path)
    np.testing.assert_array_equal(voxels(first), stored[:8])
    np.testing.assert_array_equal(voxels(second), stored[8:14])
    assert reason(broken_off) == "TOO_FEW_SLICES"


def test_a_short_last_rotation_stays_with_its_pass(tmp_path):
    heights = [2.0 * (first + np.arange(count)) for first, count in ((0, 6), (6, 2), (3, 6), (9, 3))]
    stored = write_passes(tmp_path, heights, "AcquisitionNumber")
    assert_passes(parts_of(tmp_path), [np.concatenate(heights[:2]), np.concatenate(heights[2:])], stored)


def test_passes_in_two_kernels_are_a_part_for_each_kernel(tmp_path):
    """Two passes that overlap, each reconstructed twice: four volumes."""
    heights = [2.0 * (first + np.arange(6)) for first in (0, 0, 4, 4)]
    every = [(number, height) for number, of_pass in enumerate(heights) for height in of_pass]
    stored = stored_values(len(every))

    def change(dataset, d):
        number, height = every[d]
        put(dataset, ImagePositionPatient=[0, 0, height], InstanceNumber=1)
        put(dataset, AcquisitionNumber=1 + number // 2, ConvolutionKernel="AB"[number % 2])

    write_tiny_ct(tmp_path, stored, change=change)
    assert_passes(parts_of(tmp_path), heights, stored)


# Stacks that are one volume together


@pytest.mark.parametrize("stacks", [2, 3])
@pytest.mark.parametrize("keyword", ["AcquisitionNumber", "TriggerTime"])
@pytest.mark.parametrize("thickness_mm", [2.0, 2.5, None])
def test_stacks_that_alternate_and_cover_the_scan_only_together_are_one_volume(tmp_path, stacks, keyword, thickness_mm):
    heights = [2.0 * np.arange(number, 7 * stacks, stacks) for number in range(stacks)]
    stored = write_passes(tmp_path, heights, keyword, thickness_mm)
    series = only_series(tmp_path)
    order = np.argsort(np.concatenate(heights))
    assert series.part is None
    np.testing.assert_array_equal(voxels(series), stored[order])
    assert "GAPS_BETWEEN_SLICES" not in codes(volume_of(tmp_path))


def test_passes_that_alternate_and_each_cover_the_scan_are_parts(tmp_path):
    heights = [4.0 * np.arange(7), 2.0 + 4.0 * np.arange(7)]
    stored = write_passes(tmp_path, heights, "AcquisitionNumber", 4.0)
    assert_passes(parts_of(tmp_path), heights, stored)


@pytest.mark.parametrize("keyword", ["ConvolutionKernel", "NominalPercentageOfCardiacPhase"])
def test_kernels_or_phases_that_alternate_are_parts(tmp_path, keyword):
    heights = [4.0 * np.arange(7), 2.0 + 4.0 * np.arange(7)]
    stored = write_passes(tmp_path, heights, keyword)
    assert_passes(parts_of(tmp_path), heights, stored)


@pytest.mark.parametrize("keyword", sorted(TAGS))
def test_what_changes_half_way_through_one_scan_leaves_it_whole(tmp_path, keyword):
    heights = [2.0 * np.arange(6), 2.0 * np.arange(6, 12)]
    np.testing.assert_array_equal(voxels_of_whole(tmp_path, heights, keyword), stored_values(12))


def voxels_of_whole(folder: Path, heights: list[np.ndarray], keyword: str) -> np.ndarray:
    write_passes(folder, heights, keyword)
    series = only_series(folder)
    assert series.part is None
    return voxels(series)


@pytest.mark.parametrize("gone", [5, 6, 2])
def test_one_slice_that_is_lost_where_a_rotation_ends_is_missing_as_anywhere(tmp_path, gone):
    heights = [
        2.0 * np.array([d for d in range(6) if d != gone]),
        2.0 * np.array([d for d in range(6, 12) if d != gone]),
    ]
    write_passes(tmp_path, heights, "AcquisitionNumber")
    assert rejected(tmp_path).reason == "MISSING_SLICE"


def test_a_stack_that_lacks_a_slice_keeps_the_passes_together(tmp_path):
    heights = [2.0 * np.array([0, 1, 2, 4, 5, 6]), 2.0 * np.arange(4, 12)]
    write_passes(tmp_path, heights, "AcquisitionNumber")
    first, second = parts_of(tmp_path)
    assert reason(first) == "MISSING_SLICE" and voxels(second).shape[0] == 8


def test_stacks_that_alternate_in_an_enhanced_ct_are_one_volume(shared_fault):
    """Three stacks that alternate in one file, 7.5 mm apart with slices of 2.5 mm."""
    volume = volume_of(shared_fault("enh-three-interleaved-stacks"))
    assert volume.shape == (20, 64, 64) and volume.spacing_mm[0] == pytest.approx(2.5)
    assert codes(volume) == []


@pytest.mark.parametrize("name", ["three-overlapping-passes", "phases-of-other-ranges"])
def test_passes_of_other_ranges_that_once_were_rejected_are_parts(shared_fault, name):
    assert [build_volume(keep_ct_images(series)).shape[0] for series in parts_of(shared_fault(name))] == {
        "three-overlapping-passes": [14, 14, 14],
        "phases-of-other-ranges": [20, 26, 12],
    }[name]


# Findings of what changes along one scan


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"ConvolutionKernel": ("B30f", "B70f")}, [("MIXED_KERNEL", "kernel B30f in 6, B70f in 4 of 10 slices")]),
        (
            {"ConvolutionKernel": (["B30f", "1"], ["B30f", "2"])},
            [("MIXED_KERNEL", r"kernel B30f\1 in 6, B30f\2 in 4 of 10 slices")],
        ),
        ({"KVP": (120, 100)}, [("MIXED_KVP", "kV 120 in 6, 100 in 4 of 10 slices")]),
        ({"KVP": ("120", "120.0")}, []),
        ({"ConvolutionKernel": ("B30f", None), "KVP": (120, None)}, []),
    ],
)
def test_a_kernel_or_kv_that_changes_along_the_scan_is_a_finding(tmp_path, values, expected):
    def change(dataset, d):
        put(dataset, **{keyword: pair[d >= 6] for keyword, pair in values.items()})

    write_tiny_ct(tmp_path, stored_values(10), change=change)
    assert [(finding.code, finding.detail) for finding in volume_of(tmp_path).findings] == expected
