"""Windows are the scan: right voxels, right place, any orientation; compared with MONAI and with exact integrals."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation

from models.phantom import make_phantom
from models.spec import Preprocessing
from models.statistics.body import patient_mask
from operators.errors import SeriesFailed, SeriesRejected
from operators.geometry.windows import axis_weights, patient_axes, window_starts
from operators.instance import Instance
from operators.preprocess import preprocess
from operators.synthetic.write_ct import affine_for
from operators.types import Finding, HuSlice, Series, Volume

WIDE_HU = (-1024.0, 3071.0)  # nothing is clipped
PHANTOM_MM = (6.0, 3.1, 2.7)
PHANTOM = make_phantom(shape=(36, 90, 110), spacing_mm=PHANTOM_MM)


def volume_of(hu, affine, findings=(), slice_findings=None):
    """A volume in memory, as the reader would give it."""
    series = Series("1.2.3.4", "1.2.3", ".", (Instance(Path("none.dcm"), Dataset()),))
    spacing_mm = tuple(float(mm) for mm in np.linalg.norm(affine[:3, :3], axis=0))
    met = slice_findings or {}
    return Volume(series, hu.shape, affine, spacing_mm, findings, lambda d: HuSlice(hu[d], met.get(d, ())))


def axial(hu, spacing_mm, centre_mm=(12.0, -30.0, 250.0)):
    return volume_of(hu, affine_for(hu.shape, spacing_mm, centre_mm))


def window(voxels, spacing_mm, hu=WIDE_HU, overlap=0.5):
    return Preprocessing("window", voxels, spacing_mm, hu, overlap)


def resize(voxels, hu=WIDE_HU):
    return Preprocessing("resize", voxels, None, hu)


def as_hu(voxels, hu=WIDE_HU):
    return voxels.astype(np.float64) * (hu[1] - hu[0]) + hu[0]


@pytest.fixture(scope="module")
def real_chest(shared_ct):
    """A whole chest, 79 slices of 64 x 64, axial."""
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(shared_ct("cip_chest/ct64_dicom"))))
    affine = np.eye(4)
    affine[:3, :3] = (np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing())[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return volume_of(np.clip(sitk.GetArrayFromImage(image), -1024, 3071).astype(np.int16), affine)


def integral(volume, affine, shape):
    """Mean HU over each voxel of a grid that is parallel to an axial volume's: float64, by cumulative sums."""
    mean = volume.voxels().astype(np.float64)
    to_old = np.linalg.inv(volume.affine_lps_mm) @ affine
    for axis, n in enumerate(shape):
        edges = to_old[axis, 3] + to_old[axis, axis] * (np.arange(n + 1) - 0.5) + 0.5
        old_edges = np.arange(mean.shape[axis] + 1)
        edges = np.clip(edges, 0, old_edges[-1])
        total = np.concatenate([np.zeros_like(mean.take([0], axis)), np.cumsum(mean, axis)], axis)
        below = np.minimum(np.floor(edges).astype(int), old_edges[-2])
        part = np.expand_dims(edges - below, tuple(a for a in range(3) if a != axis))
        at = total.take(below, axis) * (1 - part) + total.take(below + 1, axis) * part
        mean = np.diff(at, axis=axis) / np.expand_dims(np.diff(edges), tuple(a for a in range(3) if a != axis))
    return mean


def monai_windows(volume, windows, preprocessing, index=0):
    """MONAI's Orientation, SpatialResample to the same grid, ScaleIntensityRange."""
    import torch
    from monai.data import MetaTensor
    from monai.transforms import Orientation, ScaleIntensityRange, SpatialResample

    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    image = MetaTensor(torch.from_numpy(volume.voxels()[None].astype(np.float32)), affine=to_ras @ volume.affine_lps_mm)
    image = Orientation(axcodes="SPL", labels=(("L", "R"), ("P", "A"), ("I", "S")))(image)
    image = SpatialResample(mode="bilinear", padding_mode="border", align_corners=True, dtype=torch.float64)(
        image, dst_affine=to_ras @ windows.affines_lps_mm[index], spatial_size=preprocessing.window_voxels
    )
    low, high = preprocessing.window_hu
    return ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)(image).numpy()[0]


# Against MONAI, where the grid does not shrink


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "spacing_mm", [(2.0, 1.5, 1.5), PHANTOM_MM, (5.9, 3.1, 1.1)], ids=["finer", "the same", "finer along x"]
)
def test_it_is_monai_where_the_grid_does_not_shrink(spacing_mm):
    volume, preprocessing = axial(PHANTOM, PHANTOM_MM), window((24, 64, 72), spacing_mm)
    windows = preprocess(volume, preprocessing)
    for index in range(len(windows.voxels)):
        theirs = monai_windows(volume, windows, preprocessing, index)
        assert np.abs(as_hu(windows.voxels[index, 0]) - as_hu(theirs)).max() < 0.5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("angles", [(0, 0, 0), (15, -10, 30), (100, 20, -60)])
def test_it_is_monai_on_an_oblique_series(angles):
    affine = affine_for(PHANTOM.shape, PHANTOM_MM)
    affine[:3, :3] = Rotation.from_euler("zyx", angles, degrees=True).as_matrix() @ affine[:3, :3]
    volume, preprocessing = volume_of(PHANTOM, affine), window((20, 24, 28), (2.5, 2.5, 2.5))
    windows = preprocess(volume, preprocessing)
    theirs = monai_windows(volume, windows, preprocessing)
    assert np.abs(as_hu(windows.voxels[0, 0]) - as_hu(theirs)).max() < 0.5


@pytest.mark.filterwarnings("ignore")
def test_it_is_monais_spacing_where_the_two_grids_coincide():
    import torch
    from monai.data import MetaTensor
    from monai.transforms import Orientation, ScaleIntensityRange, Spacing

    hu = make_phantom(shape=(17, 33, 33), spacing_mm=(20, 12, 12))
    volume = axial(hu, (20.0, 12.0, 12.0))
    lung = (-1000.0, 200.0)
    windows = preprocess(volume, window((35, 65, 65), (10.0, 6.0, 6.0), lung))
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    image = MetaTensor(torch.from_numpy(hu[None].astype(np.float32)), affine=to_ras @ volume.affine_lps_mm)
    image = Orientation(axcodes="SPL", labels=(("L", "R"), ("P", "A"), ("I", "S")))(image)
    image = Spacing((10.0, 6.0, 6.0), mode="bilinear", padding_mode="border", align_corners=True)(image)
    image = ScaleIntensityRange(*lung, 0.0, 1.0, clip=True)(image)
    # MONAI's grid goes from the first centre to the last; the window has one voxel more at each end of z.
    assert image.shape == (1, 33, 65, 65) and windows.voxels.shape == (1, 1, 35, 65, 65)
    assert np.abs(windows.voxels[0, 0, 1:-1] - image.numpy()[0]).max() * (lung[1] - lung[0]) < 0.5


# Against the area integral, where it shrinks


@pytest.mark.parametrize(
    "preprocessing",
    [
        window((16, 24, 28), (13.0, 9.7, 8.3)),
        window((20, 30, 30), (6.5, 3.2, 2.75)),
        window((9, 80, 80), (24.0, 6.0, 5.4)),
        resize((8, 32, 32)),
        resize((1, 3, 2)),
    ],
    ids=["window", "window, barely", "window with padding", "resize", "resize to almost nothing"],
)
def test_it_is_the_area_integral_where_the_grid_shrinks(preprocessing):
    volume = axial(PHANTOM, PHANTOM_MM)
    windows = preprocess(volume, preprocessing)
    for got, affine in zip(as_hu(windows.voxels[:, 0]), windows.affines_lps_mm, strict=True):
        with np.errstate(invalid="ignore"):
            exact = integral(volume, affine, got.shape)
        inside = np.isfinite(exact)
        assert np.abs(got - exact)[inside].max() < 0.01
        assert np.abs(got[~inside] + 1024).max(initial=0) == 0


@pytest.mark.parametrize("preprocessing", [resize((32, 32, 32)), window((24, 40, 40), (9.0, 9.0, 9.0))])
def test_it_is_the_area_integral_on_a_real_scan(real_chest, preprocessing):
    windows = preprocess(real_chest, preprocessing)
    for got, affine in zip(as_hu(windows.voxels[:, 0]), windows.affines_lps_mm, strict=True):
        with np.errstate(invalid="ignore"):
            exact = integral(real_chest, affine, got.shape)
        inside = np.isfinite(exact)
        assert inside.mean() > 0.5 and np.abs(got - exact)[inside].max() < 0.01


@pytest.mark.filterwarnings("ignore")
def test_it_is_monai_on_a_real_scan_where_the_grid_does_not_shrink(real_chest):
    preprocessing = window((48, 64, 64), (2.0, 2.0, 2.0), (-1000.0, 500.0))
    assert min(real_chest.spacing_mm) >= 2.0
    windows = preprocess(real_chest, preprocessing)
    for index in (0, len(windows.voxels) - 1):
        theirs = monai_windows(real_chest, windows, preprocessing, index)
        assert np.abs(windows.voxels[index, 0] - theirs).max() * 1500 < 0.5


def test_intensities_are_clipped_after_resampling():
    hu = np.zeros((2, 2, 2), np.int16)
    hu[0] = 3000
    windows = preprocess(axial(hu, (1.0, 1.0, 1.0)), resize((1, 1, 1), (-1000.0, 1000.0)))
    assert windows.voxels.item() == 1.0  # mean 1500, then clipped; clipped first it would be 0.75


def test_the_window_becomes_zero_to_one():
    hu = np.array([-2000, -1000, -500, 0, 1000], np.int16).reshape(5, 1, 1)
    windows = preprocess(axial(hu, (1.0, 1.0, 1.0)), resize((5, 1, 1), (-1000.0, 0.0)))
    assert windows.voxels.dtype == np.float32
    assert windows.voxels.ravel().tolist() == [0, 0, 0.5, 1, 1]


# Orientation


def _stored_as(order, flips):
    """The same scan with its array's axes in another order and direction, and an affine that says so."""
    hu, affine = PHANTOM, affine_for(PHANTOM.shape, PHANTOM_MM, (5.0, 6.0, 7.0))
    to_plain = np.eye(4)
    for axis, flip in enumerate(flips):
        if flip:
            hu = np.flip(hu, axis)
            to_plain[axis, axis], to_plain[axis, 3] = -1, PHANTOM.shape[axis] - 1
    return hu.transpose(order), affine @ to_plain[:, [*order, 3]]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize(
    "preprocessing", [window((16, 20, 24), (9.0, 2.0, 5.0)), resize((9, 30, 200))], ids=["window", "resize"]
)
def test_the_windows_of_a_scan_do_not_depend_on_how_it_is_stored(order, preprocessing):
    plain = preprocess(axial(PHANTOM, PHANTOM_MM, (5.0, 6.0, 7.0)), preprocessing)
    for flips in itertools.product([False, True], repeat=3):
        hu, affine = _stored_as(order, flips)
        windows = preprocess(volume_of(hu, affine), preprocessing)
        assert np.allclose(windows.voxels, plain.voxels, rtol=0, atol=1e-6)
        assert np.allclose(windows.affines_lps_mm, plain.affines_lps_mm, rtol=0, atol=1e-9)
        assert np.allclose(windows.spacing_mm, plain.spacing_mm, rtol=1e-12)
        assert np.array_equal(windows.real_fraction, plain.real_fraction)


def test_the_grid_of_an_oblique_series_is_the_scanners():
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("zyx", [12, 25, -18], degrees=True).as_matrix()
    turn[:3, 3] = 3, 4, 5
    affine = affine_for(PHANTOM.shape, PHANTOM_MM)
    preprocessing = window((16, 20, 24), (9.0, 2.0, 5.0))
    plain, oblique = (preprocess(volume_of(PHANTOM, a), preprocessing) for a in (affine, turn @ affine))
    assert np.allclose(oblique.voxels, plain.voxels, rtol=0, atol=1e-6)
    assert np.allclose(oblique.affines_lps_mm, turn @ plain.affines_lps_mm, rtol=0, atol=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_axes_are_assigned_as_nibabel_does_it(seed):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(rng=np.random.default_rng(seed)).as_matrix() * (5, 0.7, 0.9)
    theirs = nibabel.io_orientation(affine)
    ours = patient_axes(affine)
    for patient_axis, (axis, flipped) in zip((2, 1, 0), ours, strict=True):
        assert theirs[axis].tolist() == [patient_axis, -1 if flipped else 1]


@pytest.mark.parametrize("degrees", [45, 135, 225, 315])
@pytest.mark.parametrize("about", "xyz")
def test_every_axis_is_assigned_at_45_degrees(about, degrees):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler(about, degrees, degrees=True).as_matrix()[:, ::-1]
    assert sorted(axis for axis, _ in patient_axes(affine)) == [0, 1, 2]


# Place


@pytest.mark.parametrize("at", [(3, 20, 30), (20, 70, 60), (35, 45, 55)])
@pytest.mark.parametrize("angles", [(0, 0, 0), (90, 0, 90), (20, -30, 10)])
@pytest.mark.parametrize(
    "preprocessing",
    [window((16, 32, 32), (9.0, 9.0, 9.0)), window((90, 200, 230), (2.4, 1.5, 1.5)), resize((20, 100, 100))],
    ids=["coarse", "fine", "resize"],
)
def test_a_bright_point_lands_where_its_lps_says(at, angles, preprocessing):
    affine = affine_for(PHANTOM.shape, PHANTOM_MM, (12.0, -30.0, 250.0))
    affine[:3, :3] = Rotation.from_euler("zyx", angles, degrees=True).as_matrix() @ affine[:3, :3]
    hu = np.zeros(PHANTOM.shape, np.int16)
    hu[at] = 3000
    windows = preprocess(volume_of(hu, affine), preprocessing)
    found = np.unravel_index(windows.voxels[:, 0].argmax(), windows.voxels[:, 0].shape)
    brightest = windows.affines_lps_mm[found[0]] @ [*found[1:], 1]
    off = np.linalg.inv(windows.affines_lps_mm[found[0]][:3, :3]) @ (brightest - affine @ [*at, 1])[:3]
    assert np.abs(off).max() <= max(0.5, 0.5 * max(PHANTOM_MM) / min(windows.spacing_mm)) + 1e-9


@pytest.mark.parametrize("spacing_mm", [(4.0, 2.0, 1.0), (2.0, 2.0, 2.0)])
def test_a_ramp_has_at_each_window_voxel_the_value_of_its_place(spacing_mm):
    affine = affine_for((12, 30, 40), (5.0, 4.0, 2.0), (0.5, 2.0, 2.5))
    d, h, w = np.meshgrid(*map(np.arange, (12, 30, 40)), indexing="ij")
    x, y, z = np.einsum("ij,jdhw->idhw", affine[:3], np.stack([d, h, w, np.ones_like(d)]))
    hu = (2 * x + 3 * y - 4 * z).astype(np.int16)
    assert np.array_equal(hu, 2 * x + 3 * y - 4 * z)
    windows = preprocess(volume_of(hu, affine), window((10, 24, 16), spacing_mm))
    for voxels, window_affine in zip(as_hu(windows.voxels[:, 0])[:, 1:-1], windows.affines_lps_mm, strict=True):
        i, j, k = np.meshgrid(np.arange(1, 9), np.arange(24), np.arange(16), indexing="ij")
        x, y, z = np.einsum("ij,jdhw->idhw", window_affine[:3], np.stack([i, j, k, np.ones_like(i)]))
        assert np.abs(voxels - (2 * x + 3 * y - 4 * z)).max() < 0.01


def test_the_window_is_centred_on_the_scan_in_plane():
    windows = preprocess(axial(PHANTOM, PHANTOM_MM, (11.0, 22.0, 33.0)), window((16, 20, 24), (9.0, 3.0, 3.0)))
    middle = windows.affines_lps_mm[0] @ [0, 9.5, 11.5, 1]
    assert np.allclose(middle[:2], [11, 22])


def test_the_windows_reach_from_the_feets_end_to_the_heads():
    windows = preprocess(axial(PHANTOM, PHANTOM_MM, (0.0, 0.0, 0.0)), window((16, 20, 24), (6.0, 3.0, 3.0)))
    ends = np.array([affine @ [[-0.5, 15.5], [0, 0], [0, 0], [1, 1]] for affine in windows.affines_lps_mm])[:, 2]
    assert ends[0, 0] == pytest.approx(-36 * 3) and ends[-1, 1] == pytest.approx(36 * 3)
    assert np.all(ends[1:, 0] <= ends[:-1, 1] - 8 * 6 + 1e-9)
    assert windows.real_fraction.tolist() == [1.0] * len(ends)


def test_neighbouring_windows_hold_the_same_voxels_where_they_overlap():
    windows = preprocess(axial(PHANTOM, PHANTOM_MM), window((16, 20, 24), (6.0, 3.0, 3.0)))
    step = round((windows.affines_lps_mm[1] - windows.affines_lps_mm[0])[2, 3] / 6.0)
    assert 0 < step <= 8
    assert np.array_equal(windows.voxels[0, 0, step:], windows.voxels[1, 0, :-step])


@given(st.integers(1, 400), st.integers(1, 64), st.floats(0, 0.99))
def test_windows_cover_the_canvas_and_share_the_overlap(n_canvas, depth, overlap):
    n_canvas = max(n_canvas, depth)
    starts = window_starts(n_canvas, depth, overlap)
    steps = np.diff(starts)
    assert starts[0] == 0 and starts[-1] == n_canvas - depth
    assert all(steps >= 1) and all((steps <= depth * (1 - overlap) + 1e-6) | (steps == 1))
    assert steps.size == 0 or steps.max() - steps.min() <= 1


def test_windows_are_spread_evenly_to_the_nearest_voxel():
    assert window_starts(67, 32, 0.5) == [0, 12, 23, 35]


def test_a_short_scan_gets_one_centred_window_padded_with_air():
    hu = np.full((4, 6, 6), 500, np.int16)
    windows = preprocess(axial(hu, (5.0, 5.0, 5.0)), window((8, 6, 10), (5.0, 5.0, 5.0)))
    assert windows.voxels.shape == (1, 1, 8, 6, 10)
    real = np.zeros((8, 6, 10), bool)
    real[2:6, :, 2:8] = True
    assert np.allclose(as_hu(windows.voxels[0, 0])[real], 500, atol=0.01) and not windows.voxels[0, 0][~real].any()
    assert windows.real_fraction.tolist() == pytest.approx([0.5 * 0.6])


@pytest.mark.parametrize("mm", [10.0, 2.0])
def test_a_voxel_that_is_partly_outside_is_the_mean_of_what_is_inside(mm):
    hu = np.full((5, 5, 5), 700, np.int16)
    windows = preprocess(axial(hu, (5.0, 5.0, 5.0)), window((16, 16, 16), (mm, mm, mm)))
    real = math.ceil(25 / mm + 1) // 2 * 2  # even, because the window is
    got = as_hu(windows.voxels[0, 0])
    assert np.count_nonzero(got > 0) == min(real, 16) ** 3 and np.allclose(got[got > 0], 700, atol=0.01)
    assert windows.real_fraction[0] == pytest.approx(min(1, 25 / mm / 16) ** 3, rel=1e-5)


def test_a_scan_a_hair_longer_than_a_window_gets_one():
    windows = preprocess(axial(np.zeros((20, 4, 4), np.int16), (5.0001, 5.0, 5.0)), window((20, 4, 4), (5.0, 5.0, 5.0)))
    assert len(windows.voxels) == 1


def test_resize_puts_the_whole_extent_into_one_window():
    windows = preprocess(axial(PHANTOM, PHANTOM_MM, (0.0, 0.0, 0.0)), resize((12, 45, 50)))
    corners = windows.affines_lps_mm[0] @ np.array([[-0.5, -0.5, -0.5, 1], [11.5, 44.5, 49.5, 1]]).T
    half = np.array(PHANTOM.shape)[::-1] * PHANTOM_MM[::-1] / 2
    assert np.allclose(corners[:3].T, [-half, half])
    assert windows.spacing_mm == pytest.approx((18, 6.2, 5.94)) and windows.real_fraction.tolist() == [1.0]


def test_a_single_voxel_becomes_a_window():
    windows = preprocess(axial(np.full((1, 1, 1), 200, np.int16), (1.0, 1.0, 1.0)), resize((2, 3, 4)))
    assert np.allclose(as_hu(windows.voxels), 200, atol=0.01)


# Weights along an axis


def _dense(weights, n_source):
    matrix = np.zeros((len(weights.source), n_source))
    np.add.at(matrix, (np.arange(len(matrix))[:, None], weights.source), weights.weight)
    return matrix


AXES = {
    "n_source": st.integers(1, 60),
    "n_target": st.integers(1, 60),
    "step": st.floats(0.05, 20),
    "shift": st.floats(0, 1),
}


@given(**AXES)
def test_weights_are_an_average(n_source, n_target, step, shift):
    first = (n_source - 1) / 2 - (n_target - 1) / 2 * step + (shift - 0.5) * step
    weights = axis_weights(n_source, n_target, first, step)
    assert weights.weight.min() >= 0 and np.allclose(weights.weight.sum(1), 1, atol=1e-6)
    assert weights.source.min() >= 0 and weights.source.max() < n_source
    inner = slice(weights.begin, weights.begin + len(weights.source))
    assert np.all(weights.inside[inner] > 0) and np.count_nonzero(weights.inside) == len(weights.source)
    assert weights.inside.max() <= 1 + 1e-9


@given(**AXES)
def test_shrinking_preserves_mass(n_source, n_target, step, shift):
    step = 1 + step
    first = (n_source - 1) / 2 - (n_target - 1) / 2 * step + (shift - 0.5) * step
    weights = axis_weights(n_source, n_target, first, step)
    given_away = weights.inside[weights.inside > 0] * step @ _dense(weights, n_source)
    ends = first - step / 2, first + (n_target - 0.5) * step
    covered = np.clip(
        np.minimum(ends[1], np.arange(n_source) + 0.5) - np.maximum(ends[0], np.arange(n_source) - 0.5), 0, 1
    )
    assert np.allclose(given_away, covered, atol=1e-4)


@given(n_source=st.integers(1, 40), n_target=st.integers(1, 40), shift=st.integers(-500, 500).map(lambda k: k / 1000))
def test_integral_and_interpolation_agree_at_equal_spacing(n_source, n_target, shift):
    first = (n_source - 1) / 2 - (n_target - 1) / 2 + shift
    linear, mean = axis_weights(n_source, n_target, first, 1.0), axis_weights(n_source, n_target, first, 1.0 + 1e-9)
    assert linear.begin == mean.begin and np.allclose(_dense(linear, n_source), _dense(mean, n_source), atol=1e-5)


# Streaming and findings


def test_two_runs_give_the_same_bits():
    preprocessing = window((16, 20, 24), (9.0, 2.0, 5.0))
    one, two = (preprocess(axial(PHANTOM, PHANTOM_MM), preprocessing) for _ in range(2))
    assert one.voxels.tobytes() == two.voxels.tobytes() and one.affines_lps_mm.tobytes() == two.affines_lps_mm.tobytes()


def test_each_slice_is_read_once():
    read = []

    def read_slice(d):
        read.append(d)
        return HuSlice(PHANTOM[d])

    preprocess(replace(axial(PHANTOM, PHANTOM_MM), read_slice=read_slice), resize((8, 16, 16)))
    assert sorted(read) == list(range(len(PHANTOM)))


def test_findings_of_slices_are_merged_by_code():
    gate, saturated, padding = (
        Finding("GATE", "first"),
        Finding("HU_SATURATED", "above int16"),
        Finding("A_PAD", "2 px"),
    )
    volume = volume_of(
        PHANTOM,
        affine_for(PHANTOM.shape, PHANTOM_MM),
        (gate, gate),
        {2: (saturated,), 7: (padding, saturated), 9: (saturated,)},
    )
    assert preprocess(volume, resize((4, 8, 8))).findings == (
        gate,
        Finding("A_PAD", "2 px (in 1 of 36 slices)"),
        Finding("HU_SATURATED", "above int16 (in 3 of 36 slices)"),
    )


def test_a_slice_of_another_shape_is_an_error():
    odd = replace(axial(PHANTOM, PHANTOM_MM), read_slice=lambda d: HuSlice(PHANTOM[d].T))
    with pytest.raises(SeriesFailed, match="SLICE_SHAPE"):
        preprocess(odd, resize((4, 8, 8)))


def test_the_full_volume_is_never_held():
    shape = (200, 128, 128)
    slice_of = np.zeros(shape[1:], np.int16)
    volume = volume_of(np.broadcast_to(slice_of, shape), affine_for(shape, (1.0, 1.0, 1.0)))
    tracemalloc.start()
    preprocess(volume, resize((16, 64, 64)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.2 * math.prod(shape) * 2


def test_a_grid_that_would_take_all_memory_is_rejected_before_it_is_made():
    with pytest.raises(SeriesRejected, match="GRID_TOO_LARGE") as caught:
        preprocess(axial(PHANTOM, PHANTOM_MM), window((16, 512, 512), (0.01, 4.0, 4.0)))
    assert "GiB" in caught.value.message


def test_windows_that_overlap_almost_wholly_count_towards_the_limit():
    settings = replace(window((2048, 256, 256), (0.01, 4.0, 4.0)), overlap=0.999)
    with pytest.raises(SeriesRejected, match="GRID_TOO_LARGE"):
        preprocess(axial(PHANTOM, PHANTOM_MM), settings)


@pytest.mark.parametrize("fitted", [window((20, 32, 48), (8.0, 9.0, 9.0)), resize((24, 40, 40))])
def test_what_is_not_the_patient_becomes_air(fitted):
    volume = axial(PHANTOM, PHANTOM_MM)
    kept, made = preprocess(volume, fitted), preprocess(volume, replace(fitted, outside="air"))
    starts = [int(start) for start in kept.starts]
    whole = np.zeros((max(starts) + fitted.window_voxels[0], *fitted.window_voxels[1:]), np.float32)
    for start, one in zip(starts, kept.voxels[:, 0], strict=True):
        whole[start : start + len(one)] = one
    patient = patient_mask(as_hu(whole), kept.spacing_mm)

    assert 0.1 < patient.mean() < 0.9
    for start, before, after in zip(starts, kept.voxels[:, 0], made.voxels[:, 0], strict=True):
        inside = patient[start : start + len(before)]
        assert np.array_equal(after[inside], before[inside])
        assert (after[~inside] == 0).all()
    assert np.array_equal(made.real_fraction, kept.real_fraction)


def test_a_table_changes_nothing_where_the_patient_alone_is_seen():
    floating = np.pad(PHANTOM, ((0, 0), (0, 20), (0, 0)), constant_values=-1000)
    lying = floating.copy()
    lying[:, -5:, 10:-10] = 200
    settings = window((20, 40, 48), (8.0, 9.0, 9.0))
    for outside, same in (("kept", False), ("air", True)):
        seen = [
            preprocess(axial(hu, PHANTOM_MM), replace(settings, outside=outside)).voxels for hu in (floating, lying)
        ]
        assert np.array_equal(*seen) == same
