"""A turn, an offset and a table removed do to the voxels what they say."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from scipy import ndimage

from operators.instance import Instance
from operators.synthetic.setup_changes import offset_hu, remove_table, rotate
from operators.synthetic.write_ct import affine_for
from operators.types import HuSlice, Series, Volume


def volume_of(hu: np.ndarray, spacing_mm=(3.0, 2.0, 2.0)) -> Volume:
    series = Series("1.2.3", "1.2", ".", (Instance(path=None, header=Dataset()),))  # type: ignore[arg-type]
    return Volume(series, hu.shape, affine_for(hu.shape, spacing_mm), spacing_mm, (), lambda d: HuSlice(hu[d]))


def patient_on_a_table(spacing_mm=(3.0, 2.0, 2.0)) -> np.ndarray:
    """An elliptic body with a gas bubble, a thin gap below it, and a table of which only the shell is dense."""
    hu = np.full((6, 90, 110), -1000, np.int16)
    rows, columns = np.mgrid[:90, :110]
    body = ((rows - 40) / 28) ** 2 + ((columns - 55) / 40) ** 2 <= 1
    hu[:, body] = 40
    hu[:, 30:36, 50:56] = -950
    hu[:, 76:78, 10:100] = -200
    return hu


@pytest.mark.parametrize("degrees", [3.0, -11.0])
def test_a_turn_is_scipys_where_pixels_are_square(degrees):
    hu = patient_on_a_table()
    expected = ndimage.rotate(hu[2].astype(np.float32), degrees, reshape=False, order=1, cval=-1000)
    assert np.abs(rotate(volume_of(hu), degrees).voxels()[2] - expected).max() <= 0.51


def test_a_turn_keeps_shapes_where_pixels_are_oblong():
    rows, columns = np.mgrid[:120, :60]
    # A circle in mm, off the middle, of pixels of 1 × 2 mm; turned by 90 degrees it is the same circle elsewhere.
    circle = (rows - 39.5) ** 2 + (2 * (columns - 29.5)) ** 2 <= 15**2
    hu = np.where(circle, 100, -1000).astype(np.int16)[None]
    turned = rotate(volume_of(hu, (1.0, 1.0, 2.0)), 90.0).voxels()[0] > -450
    assert turned.sum() == pytest.approx(circle.sum(), rel=0.03)
    middle_mm = [np.mean(place) * mm for place, mm in zip(np.nonzero(turned), (1.0, 2.0), strict=True)]
    assert abs(middle_mm[0] - 59.5) < 1 and abs(abs(middle_mm[1] - 59.0) - 20) < 1
    extent = [np.ptp(place) * mm for place, mm in zip(np.nonzero(turned), (1.0, 2.0), strict=True)]
    assert abs(extent[0] - extent[1]) <= 3


def test_an_offset_leaves_air_and_padding_alone():
    hu = patient_on_a_table()
    hu[0, :5] = -2000
    moved = offset_hu(volume_of(hu), 15).voxels()
    assert (moved[hu <= -1000] == hu[hu <= -1000]).all()
    assert (moved[hu > -1000] == hu[hu > -1000] + 15).all()


@pytest.mark.parametrize("spacing_mm", [(3.0, 2.0, 2.0), (1.0, 0.7, 0.8)])
def test_the_table_goes_and_the_body_stays_with_what_it_encloses(spacing_mm):
    hu = patient_on_a_table()
    bare = remove_table(volume_of(hu, spacing_mm)).voxels()
    assert (bare[:, 76:78] == -1000).all()
    assert (bare[:, :70] == hu[:, :70]).all()


def test_without_a_body_nothing_is_removed():
    hu = np.full((4, 30, 30), -900, np.int16)
    assert (remove_table(volume_of(hu)).voxels() == hu).all()
