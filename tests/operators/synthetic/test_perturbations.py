"""Each change does to a scan what it says, and leaves its windows where they were."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset
from scipy import ndimage

from models.phantom import PhantomFactors, make_phantom
from models.spec import Preprocessing
from operators.instance import Instance
from operators.preprocess import preprocess
from operators.synthetic.perturbations import (
    CHANGES,
    DESCRIPTIONS,
    FIELD_OF_VIEW,
    HIGH_NOISE_HU,
    LOW_NOISE_HU,
    changes_for,
    compress_lossily,
)
from operators.synthetic.write_ct import affine_for
from operators.types import HuSlice, Series, Volume

SETTINGS = Preprocessing("window", (8, 24, 24), (8.0, 8.0, 8.0), (-1000.0, 1000.0))
RESIZE = Preprocessing("resize", (8, 32, 32), None, (-1000.0, 1000.0))
NAMES = tuple(DESCRIPTIONS)
SHAPE, SPACING_MM = (41, 80, 90), (3.0, 2.5, 2.2)


def volume_of(hu, spacing_mm=SPACING_MM, affine=None):
    series = Series("1.2.3", "1.2", ".", (Instance(path=None, header=Dataset()),))  # type: ignore[arg-type]
    affine = affine_for(hu.shape, spacing_mm) if affine is None else affine
    return Volume(series, hu.shape, affine, spacing_mm, (), lambda d: HuSlice(hu[d]))


@pytest.fixture(scope="module")
def chest():
    return volume_of(make_phantom(replace(PhantomFactors(), body_width_mm=160, noise_hu=5), SHAPE, SPACING_MM, seed=1))


def changed(name, volume, settings=SETTINGS, seed=0):
    return changes_for(settings)[name](volume, np.random.default_rng(seed))


def difference(name, volume, **options):
    return changed(name, volume, **options).voxels().astype(float) - volume.voxels()


def test_every_change_is_described_and_is_there_without_a_bundle():
    assert tuple(CHANGES) == tuple(changes_for(SETTINGS)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_give_equal_voxels_in_any_order_and_on_any_thread(name, chest):
    first, second = changed(name, chest), changed(name, chest)
    backwards = list(reversed(range(first.shape[0])))
    with ThreadPoolExecutor(3) as pool:
        slices = list(pool.map(lambda d: second.read_slice(d).hu, backwards))
    assert np.array_equal(first.voxels(), np.stack(slices[::-1]))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_read_before_it_is_asked_for(name, chest):
    def refuse(d):
        raise AssertionError("read")

    changed(name, replace(chest, read_slice=refuse))


@pytest.mark.parametrize("name", NAMES)
def test_the_voxels_change_and_a_finding_says_how(name, chest):
    volume = changed(name, chest)
    assert volume.shape != chest.shape or not np.array_equal(volume.voxels(), chest.voxels())
    assert [finding.code for finding in volume.findings] == ["CHANGED"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("settings", [SETTINGS, RESIZE], ids=["window", "resize"])
def test_slices_have_the_shape_that_the_volume_says(name, settings, chest):
    volume = changed(name, chest, settings)
    assert all(one.hu.shape == volume.shape[1:] and one.hu.dtype == np.int16 for one in volume.slices())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("depth", [1, 2, 7, 41])
def test_windows_are_as_many_and_moved_by_no_more_than_was_said(name, depth, chest):
    volume = volume_of(chest.voxels()[:depth])
    before, after = (preprocess(one, SETTINGS) for one in (volume, changed(name, volume)))
    assert before.voxels.shape == after.voxels.shape
    moved_mm = after.affines_lps_mm - before.affines_lps_mm
    allowed = {"shift_subvoxel": 4.0, "shift_voxels": 16.0}.get(name, 0)
    assert np.abs(moved_mm[:, :3, 3]).max() <= allowed + 1e-9
    assert np.allclose(moved_mm[:, :, :3], 0)


@pytest.mark.parametrize(("name", "deviation"), [("noise_low", LOW_NOISE_HU), ("noise_high", HIGH_NOISE_HU)])
def test_noise_has_its_standard_deviation_and_no_mean(name, deviation):
    noise = difference(name, volume_of(np.full((12, 90, 100), 40, np.int16), (3, 0.8, 0.7)))
    assert noise.std() == pytest.approx(deviation, rel=0.02)
    assert abs(noise.mean()) < 0.02 * deviation


def test_noise_has_a_grain_in_plane_and_none_between_slices():
    noise = difference("noise_high", volume_of(np.zeros((12, 90, 100), np.int16), (3, 0.8, 0.7)))
    assert np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1] > 0.5
    assert abs(np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]) < 0.03


def test_noise_of_another_seed_is_another_noise(chest):
    one, two = (difference("noise_low", chest, seed=seed)[20, 30:50, 30:60] for seed in (0, 1))
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.2


def test_noise_leaves_padding_where_it_was_and_takes_nothing_else_below_minus_1024():
    padded = np.full((3, 30, 30), -1000, np.int16)
    padded[:, :9] = -2000
    noisy = changed("noise_high", volume_of(padded)).voxels()
    assert noisy[:, 9:].min() == -1024 and noisy[:, :9].max() < -1800


def test_sharper_and_smoother_move_edges_by_opposite_signs_and_keep_the_mean(chest):
    sharper, smoother = difference("sharper", chest), difference("smoother", chest)
    assert np.corrcoef(sharper.ravel(), smoother.ravel())[0, 1] < -0.95
    assert abs(sharper.mean()) < 0.5 and abs(smoother.mean()) < 0.5


def test_smoother_is_a_gaussian_of_one_millimetre_in_plane(chest):
    expected = ndimage.gaussian_filter1d(chest.voxels().astype(float), 1 / 2.5, axis=1, mode="nearest")
    expected = ndimage.gaussian_filter1d(expected, 1 / 2.2, axis=2, mode="nearest")
    assert np.abs(changed("smoother", chest).voxels() - expected).max() <= 0.51


def test_a_sharper_kernel_has_more_noise():
    noise = np.random.default_rng(0).normal(0, 20, (6, 80, 80)).round().astype(np.int16)
    volume = volume_of(noise, (3, 0.8, 0.8))
    assert changed("sharper", volume).voxels().std() > 1.4 * noise.std()


@pytest.mark.parametrize(("spacing_mm", "expected"), [(1.0, 7), (3.0, 20), (5.0, 20)])
def test_thicker_slabs_fill_the_same_extent(spacing_mm, expected):
    hu = np.random.default_rng(0).integers(-900, 900, (41, 6, 6)).astype(np.int16)
    volume = volume_of(hu, (spacing_mm, 2.5, 2.2))
    slabs = changed("thicker", volume)
    assert slabs.shape[0] == expected
    assert slabs.shape[0] * slabs.spacing_mm[0] == pytest.approx(41 * spacing_mm)
    assert slabs.voxels().mean() == pytest.approx(hu.mean(), abs=0.5)
    ends = [
        (one.affine_lps_mm @ [-0.5, 0, 0, 1], one.affine_lps_mm @ [one.shape[0] - 0.5, 0, 0, 1])
        for one in (volume, slabs)
    ]
    assert np.allclose(ends[0], ends[1])


def test_two_slices_to_a_slab_are_their_mean():
    hu = np.random.default_rng(0).integers(-900, 900, (8, 6, 6)).astype(np.int16)
    slabs = changed("thicker", volume_of(hu)).voxels()
    assert np.array_equal(slabs, np.rint(hu.reshape(4, 2, 6, 6).mean(axis=1)))


@pytest.mark.parametrize("name", ["shift_subvoxel", "shift_voxels"])
@pytest.mark.parametrize("settings", [SETTINGS, RESIZE], ids=["window", "resize"])
def test_a_shift_keeps_each_voxel_in_its_place_in_the_patient(name, settings, chest):
    moved = changed(name, chest, settings)
    hu, here = moved.voxels(), np.linalg.inv(chest.affine_lps_mm) @ moved.affine_lps_mm
    at = np.array([[d, h, w, 1] for d in (9, 20) for h in (20, 33) for w in (25, 40)])
    there = np.rint((here @ at.T).T).astype(int)
    assert np.array_equal(hu[tuple(at.T[:3])], chest.voxels()[tuple(there.T[:3])])


@pytest.mark.parametrize(("name", "asked_mm"), [("shift_subvoxel", 4.0), ("shift_voxels", 16.0)])
def test_a_shift_is_most_of_what_was_asked_for(name, asked_mm, chest):
    before, after = (preprocess(one, SETTINGS).affines_lps_mm for one in (chest, changed(name, chest)))
    moved_mm = np.abs(after - before)[:, :3, 3]
    assert (moved_mm >= 0.79 * asked_mm).all() and (moved_mm <= asked_mm + 1e-9).all()


def test_a_shift_by_a_whole_window_voxel_gives_the_voxels_beside(chest):
    even = volume_of(chest.voxels()[:40], (2.0, 2.0, 2.0))
    before, after = (preprocess(one, SETTINGS) for one in (even, changed("shift_voxels", even)))
    z, y, x = (round((after.affines_lps_mm - before.affines_lps_mm)[0, axis, 3] / 8) for axis in (2, 1, 0))
    assert {abs(z), abs(y), abs(x)} == {2}
    here = tuple(
        slice(max(0, -by), 8 + min(0, -by)) if axis == 0 else slice(4, -4) for axis, by in enumerate((z, y, x))
    )
    there = (slice(max(0, z), 8 + min(0, z)), slice(4 + y, 20 + y), slice(4 + x, 20 + x))
    assert np.allclose(after.voxels[0, 0][here], before.voxels[0, 0][there], atol=1e-6)


def test_cutting_voxels_alone_changes_no_window(chest):
    """A shift that is rounded down to nothing still cuts: the windows then are the same."""
    from operators.synthetic.perturbations import shift

    cut = shift(chest, np.array([0.01, 0.01, 0.01]), [4.0, 4.0, 4.0])
    assert cut.shape != chest.shape
    assert np.allclose(preprocess(cut, SETTINGS).voxels, preprocess(chest, SETTINGS).voxels, atol=1e-5)


def test_slices_further_apart_than_the_bundles_are_moved_by_whole_ones_or_not_at_all():
    thick = volume_of(np.random.default_rng(0).integers(-900, 900, (12, 60, 60)).astype(np.int16), (10.0, 2.5, 2.2))
    for name, moved_mm in (("shift_subvoxel", 0.0), ("shift_voxels", 10.0)):
        shifted = changed(name, thick)
        assert shifted.shape[0] == 12
        assert abs(shifted.affine_lps_mm[2, 3] - thick.affine_lps_mm[2, 3]) == pytest.approx(moved_mm)


def test_the_smaller_field_of_view_is_the_middle_and_windows_have_air_around_it(chest):
    small = changed("field_of_view", chest)
    assert small.shape == (41, 68, 76)
    assert np.array_equal(small.voxels(), chest.voxels()[:, 6:-6, 7:-7])
    after = preprocess(small, SETTINGS)
    inside = np.argwhere(after.voxels[0, 0].max(axis=0) > 0)
    assert np.ptp(inside, axis=0).max() + 1 <= np.ceil(FIELD_OF_VIEW * 200 / 8) + 1


def test_the_codec_loses_something_and_little(chest):
    lost = difference("lossy", chest)
    assert 0.5 < np.abs(lost).mean() < 15
    assert np.abs(compress_lossily(chest, 95).voxels().astype(float) - chest.voxels()).mean() < np.abs(lost).mean()


@pytest.mark.parametrize("name", NAMES)
def test_a_volume_whose_axes_go_elsewhere_is_changed_in_its_own_plane(name, chest):
    """Feet first, columns to the right: the windows of a changed scan stay with those of the original."""
    affine = chest.affine_lps_mm.copy()
    affine[:3, 3] += affine[:3, 0] * (SHAPE[0] - 1) + affine[:3, 2] * (SHAPE[2] - 1)
    affine[:3, 0] *= -1
    affine[:3, 2] *= -1
    turned = volume_of(np.ascontiguousarray(chest.voxels()[::-1, :, ::-1]), affine=affine)
    before, after = (preprocess(one, SETTINGS) for one in (turned, changed(name, turned)))
    assert np.allclose(before.voxels, preprocess(chest, SETTINGS).voxels, atol=1e-6)
    assert np.abs(before.affines_lps_mm - after.affines_lps_mm)[:, :3, 3].max() <= 16 + 1e-9
    assert np.corrcoef(before.voxels.ravel(), after.voxels.ravel())[0, 1] > 0.6
