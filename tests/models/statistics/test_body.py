"""The body is the largest piece; the patient is the body with its gas, its lungs and its skin, and no table."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from models.phantom import make_phantom
from models.statistics.body import body_mask, patient_mask

SPACING_MM = (5.0, 4.0, 4.0)


def patient_on_a_table() -> np.ndarray:
    """An elliptic body with a gas bubble and two lungs, blankets above it, and a table of shell and foam below it."""
    hu = np.full((5, 70, 90), -1000.0)
    rows, columns = np.mgrid[:70, :90]
    hu[:, ((rows - 30) / 22) ** 2 + ((columns - 45) / 32) ** 2 <= 1] = 40
    for middle in (30, 60):
        hu[:, ((rows - 30) / 12) ** 2 + ((columns - middle) / 9) ** 2 <= 1] = -850
    hu[:, 44:47, 43:46] = -980
    hu[:, 4:6, 20:60] = -700
    hu[:, 56:62, 8:82] = -800
    hu[:, 62:63, 8:82] = 100
    return hu


@pytest.mark.parametrize("seed", range(5))
def test_the_body_is_the_largest_piece_with_its_holes_filled_slice_by_slice(seed):
    hu = np.where(np.random.default_rng(seed).random((4, 12, 13)) < 0.55, 40.0, -1000.0)
    pieces, _ = ndimage.label(hu > -300)
    largest = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    filled = np.stack([ndimage.binary_fill_holes(axial) for axial in largest])

    assert (filled != largest).any()
    assert np.array_equal(body_mask(hu), filled)


def test_table_and_blankets_go_and_lungs_gas_and_skin_stay():
    hu = patient_on_a_table()
    kept = patient_mask(hu, SPACING_MM)
    body = body_mask(hu)
    assert kept[body].all()
    assert not kept[:, 54:].any() and not kept[:, :6].any()
    assert np.array_equal(kept, ndimage.binary_dilation(body, np.ones((1, 3, 3))))


@pytest.mark.parametrize(
    "part",
    [np.s_[:, :, 30:], np.s_[:, :, :60], np.s_[:, 30:, :], np.s_[:, :30, :]],
    ids=["left", "right", "bottom", "top"],
)
def test_a_lung_that_the_edge_of_the_scan_cuts_open_stays(part):
    cropped = np.zeros((5, 70, 90), bool)
    cropped[part] = True
    hu = np.where(cropped, patient_on_a_table(), -1000.0)
    lung = (hu == -850) & cropped
    assert lung.sum() > 1000
    assert patient_mask(hu, SPACING_MM)[lung].all()
    assert not body_mask(hu)[lung].all()


@pytest.mark.parametrize(
    ("spacing_mm", "rim"), [((5.0, 4.0, 4.0), (1, 1)), ((5.0, 1.0, 2.0), (4, 2)), ((1, 9, 9), (1, 1))]
)
def test_the_skin_is_of_millimetres_and_at_least_a_voxel(spacing_mm, rim):
    hu = np.full((3, 30, 30), -1000.0)
    hu[1, 10:20, 12:18] = 40
    kept = patient_mask(hu, spacing_mm)
    assert not kept[[0, 2]].any()
    rows, columns = (np.flatnonzero(kept[1].any(axis=axis)) for axis in (1, 0))
    assert (rows[0], rows[-1]) == (10 - rim[0], 19 + rim[0])
    assert (columns[0], columns[-1]) == (12 - rim[1], 17 + rim[1])


def test_without_its_table_a_scan_has_the_same_patient():
    hu = patient_on_a_table()
    kept = patient_mask(hu, SPACING_MM)
    assert np.array_equal(patient_mask(np.where(kept, hu, -1000.0), SPACING_MM), kept)


def test_a_phantom_is_kept_but_for_its_table():
    hu = make_phantom(shape=(40, 96, 96), spacing_mm=(6.0, 4.0, 4.0)).astype(np.float64)
    kept = patient_mask(hu, (6.0, 4.0, 4.0))
    assert kept[body_mask(hu)].all()
    assert 0.2 < kept.mean() < 0.8


def test_two_legs_that_do_not_touch_stay_and_their_table_goes():
    hu = np.full((5, 60, 80), -1000.0)
    rows, columns = np.mgrid[:60, :80]
    for middle, radius in ((20, 12), (58, 9)):
        hu[:, (rows - 25) ** 2 + (columns - middle) ** 2 <= radius**2] = 40
    legs = hu > 0
    hu[:, 45:47, 5:75] = 100
    kept = patient_mask(hu, SPACING_MM)
    assert kept[legs].all() and not kept[:, 44:].any()
    assert (legs & body_mask(hu)).sum() < legs.sum()


@pytest.mark.parametrize("value", [-1000.0, -400.0])
def test_without_a_body_all_is_kept(value):
    assert patient_mask(np.full((3, 8, 8), value), SPACING_MM).all()


def test_a_field_of_view_within_a_lung_is_kept_whole():
    """A nodule in nothing but lung: the lung lies between no walls, and would go."""
    hu = np.full((6, 24, 24), -850.0)
    hu[2:4, 10:14, 10:14] = 30
    assert patient_mask(hu, SPACING_MM).all()
