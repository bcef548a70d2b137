"""What a policy repairs is bounded, right to interpolation, and said; without one it is rejected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.encode_folder import encode
from app.inspect import inspect_folder
from app.settings import Settings, load_settings
from models.bundle.store import load_bundle
from operators.build_volume import build_volume
from operators.errors import SeriesRejected, StartError
from operators.geometry.policy import GeometryPolicy
from operators.geometry.repair import resample_stack
from operators.make_record import Disclosure, configuration_digest
from operators.series.ct_images import keep_ct_images
from operators.synthetic.write_ct import write_ct_series
from operators.types import Volume
from tests.operators.geometry.test_tilt import at, indices, sheared, smooth
from tests.operators.test_build_volume import CORONAL, all_slices, codes, one, only_series, rejected
from tests.support.bundles import write_small_bundle
from tests.support.tiny_ct import put, stored_values, write_tiny_ct

INTERPOLATE = GeometryPolicy(missing_slice="interpolate")
RESAMPLE = GeometryPolicy(irregular_spacing="resample")
ASSUME_HU = GeometryPolicy(missing_rescale="assume_hu")
DROP = GeometryPolicy(truncated_pixels="drop")


def repaired(folder: Path, policy: GeometryPolicy) -> Volume:
    return build_volume(keep_ct_images(only_series(folder)), policy)


def refused(folder: Path, policy: GeometryPolicy) -> SeriesRejected:
    with pytest.raises(SeriesRejected) as caught:
        repaired(folder, policy)
    return caught.value


def said(volume: Volume, code: str) -> list[str]:
    return [finding.detail for finding in volume.findings if finding.code == code]


# A missing slice


def write_without(folder: Path, gone: list[int], depth: int = 20, **options) -> np.ndarray:
    stored = stored_values(depth)
    paths = write_tiny_ct(folder, stored, **options)
    for d in gone:
        paths[d].unlink()
    return stored


def test_a_missing_slice_is_the_mean_of_its_neighbours_and_its_place_is_said(tmp_path):
    stored = write_without(tmp_path, [7, 12])
    volume = repaired(tmp_path, INTERPOLATE)
    expected = stored.copy()
    for d in (7, 12):
        expected[d] = np.rint((stored[d - 1].astype(float) + stored[d + 1]) / 2)
    np.testing.assert_array_equal(volume.voxels(), expected)
    assert volume.shape == stored.shape and volume.spacing_mm[0] == pytest.approx(2)
    np.testing.assert_allclose(volume.affine_lps_mm[:3, 0], [0, 0, 2])
    assert [detail.split(":")[0] for detail in said(volume, "MISSING_SLICE_INTERPOLATED")] == [
        "at z = -42.00 mm",
        "at z = -32.00 mm",
    ]


def test_in_a_coronal_series_the_place_is_along_the_axis_of_the_slices(tmp_path):
    write_without(tmp_path, [7], orientation=CORONAL)
    [detail] = said(repaired(tmp_path, INTERPOLATE), "MISSING_SLICE_INTERPOLATED")
    assert detail.startswith("at y = 48.00 mm")


@pytest.mark.parametrize(
    ("gone", "depth", "spacing_mm"),
    [([7, 8], 40, 2.0), ([3, 6, 9], 20, 2.0), ([7], 20, 6.0), ([2], 5, 2.0)],
    ids=["two in a row", "more than a tenth", "across more than 10 mm", "one of five"],
)
def test_more_than_a_few_slices_are_not_made_up(tmp_path, gone, depth, spacing_mm):
    write_without(tmp_path, gone, depth, spacing_mm=(spacing_mm, 0.5, 0.5))
    error = refused(tmp_path, INTERPOLATE)
    assert error.reason == "MISSING_SLICE" and "only single slices can be interpolated" in error.message


def test_without_the_policy_a_missing_slice_is_rejected(tmp_path):
    write_without(tmp_path, [7])
    assert rejected(tmp_path).reason == refused(tmp_path, RESAMPLE).reason == "MISSING_SLICE"


def test_a_real_series_that_lacks_one_of_five_slices_stays_rejected(shared_ct):
    assert refused(shared_ct("dicom2nifti_failing/missing_slice_ge"), INTERPOLATE).reason == "MISSING_SLICE"


def test_in_a_tilted_series_neighbours_are_straightened_before_they_are_mixed(tmp_path):
    affine = sheared((15.0, 0.0))
    hu = np.rint(smooth(at(indices((20, 40, 40)), affine))).astype(np.int16)
    write_ct_series(hu, affine, tmp_path)[7].unlink()
    volume = repaired(tmp_path, INTERPOLATE)
    expected = smooth(at(indices(volume.shape), volume.affine_lps_mm))[7]
    inner = slice(10, -10)
    assert (
        np.abs(volume.read_slice(7).hu - expected)[inner, 1:-1].max() < 4
    )  # 2 mm apart: 2²/8 × 2 HU/mm², and rounding
    assert {"GANTRY_TILT", "MISSING_SLICE_INTERPOLATED"} <= set(codes(volume))


# Irregular spacing


def at_heights(heights: list[float]):
    return lambda dataset, d: put(dataset, ImagePositionPatient=[-12, 34, heights[d]])


def test_an_irregular_stack_is_linear_between_its_slices(tmp_path):
    heights = [0.0, 1.0, 2.0, 3.0, 5.5, 8.0, 10.0]
    stored = stored_values(len(heights))
    write_tiny_ct(tmp_path, stored, change=at_heights(heights))
    volume = repaired(tmp_path, RESAMPLE)
    places = volume.affine_lps_mm[2, 3] + volume.affine_lps_mm[2, 0] * np.arange(volume.shape[0])
    assert (volume.shape[0], volume.spacing_mm[0]) == (11, pytest.approx(1.0))
    flat = stored.reshape(len(heights), -1).T
    expected = np.array([np.interp(places, heights, column) for column in flat]).T.reshape(volume.shape)
    assert np.abs(volume.voxels() - expected).max() <= 0.51
    [detail] = said(volume, "SPACING_RESAMPLED")
    assert detail == "slices were 1.00 to 2.50 mm apart: 5 of 11 are interpolated between two, 1 mm apart"


@pytest.mark.parametrize(
    "heights",
    [[0, 2, 4, 6, 17.5, 19.5], [0, 2, 4, 4.02, 6, 8]],
    ids=["a gap of more than 10 mm", "two that nearly coincide"],
)
def test_what_would_be_mostly_made_up_stays_irregular(tmp_path, heights):
    write_tiny_ct(tmp_path, stored_values(6), change=at_heights(heights))
    error = refused(tmp_path, RESAMPLE)
    assert error.reason == "IRREGULAR_SPACING" and "only gaps up to" in error.message


def test_without_the_policy_an_irregular_stack_is_rejected(tmp_path):
    write_tiny_ct(tmp_path, stored_values(6), change=at_heights([0, 1, 2, 3.4, 5, 6]))
    assert rejected(tmp_path).reason == refused(tmp_path, INTERPOLATE).reason == "IRREGULAR_SPACING"


@given(gaps=st.lists(st.floats(1.0, 4.0), min_size=3, max_size=30))
def test_each_resampled_slice_lies_where_its_sources_say(gaps):
    heights = np.concatenate([[0], np.cumsum(gaps)]) - 50
    stack = resample_stack(heights, "")
    assert stack.sources is not None
    for d, pair in enumerate(stack.sources):
        assert sum(weight for _, weight in pair) == pytest.approx(1) and all(weight > 0 for _, weight in pair)
        assert sum(weight * heights[i] for i, weight in pair) == pytest.approx(
            heights[0] + d * stack.spacing_mm, abs=1e-3 * max(gaps)
        )
    assert stack.sources[0] == ((0, 1.0),) and stack.sources[-1] == ((len(gaps), 1.0),)


# Few slices


@pytest.mark.parametrize("count", [2, 3])
def test_by_policy_two_slices_are_a_volume_that_says_so(tmp_path, count):
    stored = stored_values(count)
    write_tiny_ct(tmp_path, stored)
    volume = repaired(tmp_path, GeometryPolicy(min_slices=2))
    np.testing.assert_array_equal(volume.voxels(), stored)
    assert codes(volume) == ["FEW_SLICES"]


def test_by_policy_more_slices_can_be_asked_for(tmp_path):
    write_tiny_ct(tmp_path, stored_values(19))
    assert "expected at least 20" in refused(tmp_path, GeometryPolicy(min_slices=20)).message


# Missing rescale


@pytest.mark.parametrize(
    "lost", [{"RescaleSlope": None, "RescaleIntercept": None}, {"RescaleSlope": 0}, {"RescaleIntercept": None}]
)
def test_signed_values_without_rescale_are_hu_by_policy(tmp_path, lost):
    stored = stored_values()
    write_tiny_ct(tmp_path, stored, change=all_slices(**lost))
    assert rejected(tmp_path).reason in ("MISSING_RESCALE", "INVALID_RESCALE")
    volume = repaired(tmp_path, ASSUME_HU)
    np.testing.assert_array_equal(volume.voxels(), stored)
    assert said(volume, "RESCALE_ASSUMED") == ["no usable rescale: slope and intercept are assumed to be 1 and 0"]


def test_an_intercept_that_is_there_is_kept_beside_an_assumed_slope(tmp_path):
    stored = stored_values().astype(np.uint16) % 3000
    write_tiny_ct(tmp_path, stored, change=all_slices(RescaleSlope=None, RescaleIntercept=-1024))
    np.testing.assert_array_equal(repaired(tmp_path, ASSUME_HU).voxels(), stored.astype(int) - 1024)


def test_unsigned_values_without_intercept_are_no_hu(tmp_path):
    stored = np.abs(stored_values()).astype(np.uint16)
    write_tiny_ct(tmp_path, stored, change=all_slices(RescaleSlope=None, RescaleIntercept=None))
    assert refused(tmp_path, ASSUME_HU).reason == "MISSING_RESCALE"


def test_where_some_slices_have_a_rescale_none_is_assumed(tmp_path):
    write_tiny_ct(tmp_path, change=one(RescaleSlope=None))
    assert refused(tmp_path, ASSUME_HU).reason == "MISSING_RESCALE"


def test_the_headers_of_the_series_stay_as_they_were_read(tmp_path):
    write_tiny_ct(tmp_path, change=all_slices(RescaleSlope=None))
    volume = repaired(tmp_path, ASSUME_HU)
    assert all("RescaleSlope" not in instance.header for instance in volume.series.instances)


# Truncated pixels


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_a_slice_that_is_cut_off_at_the_end_is_left_out_by_policy(tmp_path):
    stored = stored_values(8)
    cut(write_tiny_ct(tmp_path, stored)[7])
    volume = repaired(tmp_path, DROP)
    np.testing.assert_array_equal(volume.voxels(), stored[:7])
    assert said(volume, "TRUNCATED_SLICE_DROPPED") == ["1 of 8 slices are cut off and left out"]
    assert len(volume.series.instances) == 8


def test_a_slice_that_is_cut_off_amid_the_stack_is_a_missing_one(tmp_path):
    stored = stored_values(12)
    cut(write_tiny_ct(tmp_path, stored)[5])
    assert refused(tmp_path, DROP).reason == "MISSING_SLICE"
    both = GeometryPolicy(truncated_pixels="drop", missing_slice="interpolate")
    volume = repaired(tmp_path, both)
    assert volume.shape == stored.shape
    assert {"TRUNCATED_SLICE_DROPPED", "MISSING_SLICE_INTERPOLATED"} <= set(codes(volume))


def test_slices_that_are_left_out_can_leave_too_few(tmp_path):
    cut(write_tiny_ct(tmp_path, stored_values(4))[3])
    assert refused(tmp_path, DROP).reason == "TOO_FEW_SLICES"


# The policy on its way


def test_a_series_that_needs_no_repair_is_the_same_under_any_policy(tmp_path):
    stored = stored_values(9)
    write_tiny_ct(tmp_path, stored)
    everything = GeometryPolicy("reject", "interpolate", "resample", 2, "assume_hu", "drop")
    volume = repaired(tmp_path, everything)
    np.testing.assert_array_equal(volume.voxels(), stored)
    assert volume.findings == ()


def test_the_section_of_the_settings_is_the_policy(tmp_path):
    path = tmp_path / "app.yaml"
    path.write_text("geometry: {missing_slice: interpolate, min_slices: 30}")
    assert load_settings(path, {}).geometry == GeometryPolicy(missing_slice="interpolate", min_slices=30)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{missing_slices: reject}", "missing_slices"),
        ("{gantry_tilt: keep}", "gantry_tilt"),
        ("{min_slices: 1}", "min_"),
    ],
)
def test_a_wrong_policy_is_named(tmp_path, text, named):
    path = tmp_path / "app.yaml"
    path.write_text(f"geometry: {text}")
    with pytest.raises(StartError, match=f"geometry.*{named}"):
        load_settings(path, {})


def test_inspect_says_what_would_come_of_a_series_under_the_policy(tmp_path):
    write_without(tmp_path, [7])
    [strict] = inspect_folder(tmp_path, Settings())
    [lenient] = inspect_folder(tmp_path, Settings(geometry=INTERPOLATE))
    assert (strict.outcome.status, strict.outcome.reason) == ("rejected", "MISSING_SLICE")
    assert lenient.outcome.status == "eligible"
    assert "MISSING_SLICE_INTERPOLATED" in {finding.code for finding in lenient.outcome.findings}


def test_a_repair_travels_with_the_features_and_changes_their_digest(tmp_path):
    write_without(tmp_path / "in", [7])
    write_small_bundle(tmp_path / "bundle")
    [record] = encode(tmp_path / "in", tmp_path / "bundle", geometry=INTERPOLATE)
    assert "MISSING_SLICE_INTERPOLATED" in {finding.code for finding in record.findings}
    bundle, taps = load_bundle(tmp_path / "bundle"), tuple(record.taps)
    assert record.config_digest == configuration_digest(bundle, taps, Disclosure(), INTERPOLATE)
    assert record.config_digest != configuration_digest(bundle, taps, Disclosure())
