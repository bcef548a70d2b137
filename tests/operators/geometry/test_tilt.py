"""A tilted gantry: the slices are moved back onto an upright grid, and what was scanned is where it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from models.spec import Preprocessing
from operators.build_volume import build_volume
from operators.errors import SeriesRejected
from operators.geometry.policy import GeometryPolicy
from operators.geometry.resampling import shifted
from operators.preprocess import preprocess
from operators.synthetic.write_ct import write_ct_series
from operators.types import Volume
from tests.operators.test_build_volume import only_series, rejected, volume_of
from tests.support.tiny_ct import put, stored_values, write_tiny_ct

PIXEL_MM = (0.9, 0.7)  # between rows, between columns


def at(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Indices (…, 3) → LPS mm (…, 3)."""
    return points @ affine[:3, :3].T + affine[:3, 3]


def indices(shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).astype(float)


def smooth(place: np.ndarray) -> np.ndarray:
    """An object that is known everywhere: HU at LPS mm; its second derivatives are below 3.2 HU/mm²."""
    x, y, z = np.moveaxis(place, -1, 0)
    return 300 * np.sin(x / 14) * np.cos(y / 12) + 250 * np.cos(z / 17 + x / 40) + 2 * y


def sheared(degrees: tuple[float, float], turned_degrees: float = 0, flip: int = 1) -> np.ndarray:
    """Of slices 2 mm apart along their normal, which lean by `degrees` towards columns and towards rows."""
    angle = np.deg2rad(turned_degrees)
    row, column = np.array([1.0, 0, 0]), flip * np.array([0, np.cos(angle), np.sin(angle)])
    normal = np.cross(row, column)
    affine = np.eye(4)
    affine[:3, 2], affine[:3, 1] = PIXEL_MM[1] * row, PIXEL_MM[0] * column
    lean = np.tan(np.deg2rad(degrees))
    affine[:3, 0] = 2 * (normal + lean[0] * column + lean[1] * row)
    affine[:3, 3] = [-30.0, 20.0, -50.0]
    return affine


def written(folder: Path, affine: np.ndarray, shape: tuple[int, int, int] = (12, 48, 40)) -> np.ndarray:
    hu = np.rint(smooth(at(indices(shape), affine))).astype(np.int16)
    write_ct_series(hu, affine, folder)
    return hu


def inside(volume: Volume, affine: np.ndarray, shape: tuple[int, int, int], margin: float) -> np.ndarray:
    """Which voxels lie in the slices that were written; negative margins reach beyond their outermost centres."""
    places = at(at(indices(volume.shape), volume.affine_lps_mm), np.linalg.inv(affine))[..., 1:]
    return ((places >= margin) & (places <= np.array(shape[1:]) - 1 - margin)).all(axis=-1)


LEANS = [(18.5, 0.0), (-18.5, 0.0), (0.0, 12.0), (-25.0, 7.0), (3.0, -30.0)]


@pytest.mark.parametrize("lean", LEANS)
@pytest.mark.parametrize(("turned", "flip"), [(0.0, 1), (-18.5, 1), (20.0, -1)])
def test_what_was_scanned_is_where_it_was(tmp_path, lean, turned, flip):
    affine = sheared(lean, turned, flip)
    hu = written(tmp_path, affine)
    volume = volume_of(tmp_path)
    expected = smooth(at(indices(volume.shape), volume.affine_lps_mm))
    known = inside(volume, affine, hu.shape, 0)
    # Linear interpolation errs by h²/8 × the second derivative along each axis; writing and reading round by 0.5 each.
    allowed = 1 + 3.2 / 8 * (PIXEL_MM[0] ** 2 + PIXEL_MM[1] ** 2)
    assert np.abs(volume.voxels() - expected)[known].max() <= allowed
    assert known.sum() > 0.9 * hu.shape[0] * (hu.shape[1] - 1) * (hu.shape[2] - 1)


@pytest.mark.parametrize("lean", LEANS)
def test_the_grid_has_right_angles_and_covers_every_slice_no_more(tmp_path, lean):
    affine = sheared(lean, -18.5)
    hu = written(tmp_path, affine)
    volume = volume_of(tmp_path)
    steps = volume.affine_lps_mm[:3, :3]
    np.testing.assert_allclose(steps.T @ steps, np.diag(np.square([2.0, *PIXEL_MM])), atol=1e-5)
    corners = np.array([[d, h, w] for d in (0, 11) for h in (0, 47) for w in (0, 39)], float)
    places = at(at(corners, affine), np.linalg.inv(volume.affine_lps_mm))
    reached = np.array(volume.shape) - 1 - places.max(axis=0)
    np.testing.assert_allclose(places.min(axis=0), 0, atol=1e-3)
    assert (reached >= -1e-3).all() and (reached < 1).all() and volume.shape[0] == hu.shape[0]


def test_what_no_slice_reaches_is_air(tmp_path):
    affine = sheared((-20.0, 10.0))
    hu = written(tmp_path, affine)
    volume = volume_of(tmp_path)
    beyond = ~inside(volume, affine, hu.shape, -1.001)
    assert beyond.any() and (volume.voxels()[beyond] == -1000).all()


def test_a_shift_of_whole_pixels_changes_no_voxel(tmp_path):
    stored = stored_values(5, 6, 8)
    change = lambda ds, d: put(ds, ImagePositionPatient=[0.75 * d, -1.0 * d, 4.0 * d])  # noqa: E731
    write_tiny_ct(tmp_path, stored, spacing_mm=(4.0, 0.5, 0.75), change=change)
    volume = volume_of(tmp_path)
    assert volume.shape == (5, 14, 12)
    for d in range(5):
        plane = volume.read_slice(d).hu
        np.testing.assert_array_equal(plane[8 - 2 * d :][:6, d : d + 8], stored[d])
        assert np.count_nonzero(plane != -1000) <= 48


def test_half_a_pixel_is_the_mean_of_two_rows_and_the_edge_keeps_its_value():
    moved = shifted(np.array([[100], [300]], np.int16), (0.5, 0.0), (4, 1))
    assert moved[:, 0].tolist() == [100, 200, 300, -1000]


def test_the_finding_says_the_angle_the_shift_and_how_much_is_air(tmp_path):
    written(tmp_path, sheared((18.5, 0.0)))
    [finding] = [one for one in volume_of(tmp_path).findings if one.code == "GANTRY_TILT"]
    assert "18.50°" in finding.detail and "7.4 mm" in finding.detail and "15.8%" in finding.detail


def test_the_tilt_is_computed_from_positions_and_not_from_its_tag(tmp_path):
    angle = np.deg2rad(10)
    turned = (1.0, 0.0, 0.0, 0.0, np.cos(angle), np.sin(angle))
    change = lambda ds, d: put(ds, ImagePositionPatient=[0, 0, 2.0 * d], GantryDetectorTilt=0)  # noqa: E731
    write_tiny_ct(tmp_path, orientation=turned, change=change)
    [finding] = [one for one in volume_of(tmp_path).findings if one.code == "GANTRY_TILT"]
    assert "10.00°" in finding.detail


def test_by_policy_a_tilt_is_rejected_with_its_angle(tmp_path):
    written(tmp_path, sheared((10.0, 0.0)))
    with pytest.raises(SeriesRejected, match=r"GANTRY_TILT: the slice axis is 10\.00°"):
        build_volume(only_series(tmp_path), GeometryPolicy(gantry_tilt="reject"))


def test_a_line_more_slanted_than_any_gantry_is_rejected(tmp_path):
    written(tmp_path, sheared((40.0, 0.0)))
    assert rejected(tmp_path).reason == "GANTRY_TILT"


def test_there_is_no_slice_outside_a_straightened_volume(tmp_path):
    written(tmp_path, sheared((10.0, 0.0)))
    for d in (-1, 12):
        with pytest.raises(IndexError):
            volume_of(tmp_path).read_slice(d)


def test_a_straightened_volume_gives_windows(tmp_path):
    written(tmp_path, sheared((18.5, 0.0)))
    windows = preprocess(volume_of(tmp_path), Preprocessing("window", (8, 16, 16), (4.0, 4.0, 4.0), (-1000.0, 1000.0)))
    assert "GANTRY_TILT" in {finding.code for finding in windows.findings}


def test_the_real_tilted_series_is_scipys_resampling_of_its_sheared_grid(shared_ct):
    """54 slices of a head phantom at -18.5°: rotated geometry, a tag of its own that agrees."""
    series = only_series(shared_ct("dcmqact_philips_tilt_phantom/tilt_-18.5"))
    volume = build_volume(series)
    hu, affine = volume_by_hand(series)
    places = at(at(indices(volume.shape)[::9], volume.affine_lps_mm), np.linalg.inv(affine))
    assert np.abs(places[..., 0] - np.arange(0, len(hu), 9)[:, None, None]).max() < 2e-3
    places[..., 0] = np.rint(places[..., 0])
    expected = map_coordinates(hu.astype(float), np.moveaxis(places, -1, 0), order=1, mode="nearest")
    beyond = ((places[..., 1:] <= -1) | (places[..., 1:] >= hu.shape[1:])).any(axis=-1)
    found = np.stack([volume.read_slice(d).hu for d in range(0, len(hu), 9)])
    difference = np.abs(found - np.where(beyond, -1000, expected))
    assert beyond.mean() == pytest.approx(1 - 512 / volume.shape[1], abs=0.01)
    assert difference.max() <= 1 and difference.mean() < 0.2
    [finding] = [one for one in volume.findings if one.code == "GANTRY_TILT"]
    assert "18.50°" in finding.detail


def volume_by_hand(series) -> tuple[np.ndarray, np.ndarray]:
    """Voxels as pydicom reads them, sorted along z, and the sheared affine of the first and last position."""
    import pydicom

    slices = [pydicom.dcmread(instance.path) for instance in series.instances]
    slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    hu = np.stack([one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices])
    first, last = (np.array(one.ImagePositionPatient, float) for one in (slices[0], slices[-1]))
    cosines, spacing = np.array(slices[0].ImageOrientationPatient, float), slices[0].PixelSpacing
    affine = np.eye(4)
    affine[:3, 0] = (last - first) / (len(slices) - 1)
    affine[:3, 1], affine[:3, 2] = cosines[3:] * spacing[0], cosines[:3] * spacing[1]
    affine[:3, 3] = first
    return np.maximum(hu, -1024), affine
