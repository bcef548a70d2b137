"""What is exported is what was read, where it was, in any viewer."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset

from app.cli import main as ctvae
from models.bundle.store import find_bundle, load_bundle
from operators.build_volume import build_volume
from operators.errors import SeriesFailed
from operators.images.read_image import find_image, image_series, image_volume
from operators.instance import Instance
from operators.preprocess import preprocess
from operators.read_study import read_studies
from operators.results.write_nifti import write_volume_nifti
from operators.synthetic.write_ct import affine_for, write_ct_series
from operators.types import HuSlice, Series, Volume

SHAPE, SPACING = (12, 20, 30), (5.0, 3.0, 2.0)


def export(source: Path, output: Path, *more: str) -> tuple[int, dict[str, str | None]]:
    """Exit code, and status or reason by folder."""
    code = ctvae(["export", str(source), "-o", str(output), *more])
    lines = json.loads((output / "outcome.export.json").read_text())["series"]
    return code, {line["folder"]: line["reason"] or line["status"] for line in lines}


def made_hu(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 2000, SHAPE).astype(np.int16)


def read_back(path: Path) -> Volume:
    instance = find_image(path, path.parent)
    assert instance
    return image_volume(image_series(instance, path.name))


def volume_of(folder: Path) -> Volume:
    ((series,),) = (study.series for study in read_studies(folder).studies)
    return build_volume(series)


def coronal_affine() -> np.ndarray:
    """Slices to the back, rows to the feet, columns to the left; turned by 20° about the long axis."""
    turn = np.deg2rad(20)
    along_row, down = np.array([np.cos(turn), np.sin(turn), 0]), np.array([0, 0, -1.0])
    affine = np.eye(4)
    affine[:3, :3] = np.stack([np.cross(along_row, down) * 5, down * 3, along_row * 2], axis=1)
    affine[:3, 3] = 11, -22, 33
    return affine


@pytest.mark.parametrize("affine", [affine_for(SHAPE, SPACING, (10.3, -20.7, 411.9)), coronal_affine()])
def test_the_export_read_back_is_the_volume(tmp_path, affine):
    write_ct_series(made_hu(), affine, tmp_path / "in")
    expected = volume_of(tmp_path / "in")

    code, _ = export(tmp_path / "in", tmp_path / "out")

    back = read_back(tmp_path / "out" / f"{expected.series.series_instance_uid}.nii.gz")
    assert code == 0
    np.testing.assert_array_equal(back.voxels(), expected.voxels())
    np.testing.assert_allclose(back.affine_lps_mm, expected.affine_lps_mm, rtol=2e-7, atol=2e-6)  # float32
    np.testing.assert_allclose(back.spacing_mm, expected.spacing_mm, rtol=1e-6)


@pytest.mark.parametrize("name", ["cip_chest/ct64_dicom", "elastix_lung/3DCT_lung_baseline_small.mha"])
def test_simpleitk_reads_of_the_export_what_it_reads_of_the_original(shared_ct, tmp_path, name):
    source = shared_ct(name)
    if source.is_dir():
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(source)))
        original = reader.Execute()
    else:
        original = sitk.ReadImage(str(source))

    export(source, tmp_path)

    exported = sitk.ReadImage(str(next(tmp_path.glob("*.nii.gz"))))
    hu = sitk.GetArrayFromImage(original)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(exported), np.where(hu < -1024, -1000, hu))
    for index in ((0, 0, 0), tuple(size - 1 for size in original.GetSize())):
        expected = original.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(exported.TransformIndexToPhysicalPoint(index), expected, atol=1e-3)


def test_header_and_bytes_are_what_they_should_be(tmp_path):
    write_ct_series(made_hu(), affine_for(SHAPE, SPACING), tmp_path / "in")
    for output in ("one", "two"):
        export(tmp_path / "in", tmp_path / output)

    (one,), (two,) = ((tmp_path / output).glob("*.nii.gz") for output in ("one", "two"))
    image = nibabel.load(one)
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes()[3:8] == bytes(5), "neither a name nor a time in gzip's header"
    assert image.get_data_dtype() == np.int16 and image.shape == SHAPE[::-1]
    assert image.header["sform_code"] == image.header["qform_code"] == 1
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
    plain = gzip.decompress(one.read_bytes())
    assert len(plain) == 352 + 2 * made_hu().size
    assert np.frombuffer(plain[112:120], "<f4").tolist() == [1, 0], "slope and intercept"


def test_a_bright_voxel_is_at_its_place_in_the_windows(tmp_path):
    shape, spacing = (40, 96, 96), load_bundle(find_bundle()).preprocessing.spacing_mm
    affine = affine_for(shape, spacing, (7.0, -5.0, 100.0))
    hu = np.full(shape, -1000, np.int16)
    hu[:, 20:70, 10:80] = 40  # a body
    hu[33, 60, 20:23] = 900, 1000, 900  # along x, so that left and right differ
    hu[33, 61, 21] = 500
    write_ct_series(hu, affine, tmp_path / "in")

    code, _ = export(tmp_path / "in", tmp_path / "out", "--windows")

    windows = sorted((tmp_path / "out").glob("*.window*.nii.gz"))
    found = [nibabel.load(path) for path in windows]
    assert code == 0 and len(windows) == 2
    place_ras = np.diag([-1, -1, 1]) @ (affine @ [33, 60, 21, 1])[:3]
    brightest = max(found, key=lambda image: image.get_fdata().max())
    index = np.unravel_index(np.argmax(brightest.get_fdata()), brightest.shape)
    assert np.abs((brightest.affine @ [*index, 1])[:3] - place_ras).max() <= 2.0, "within half a voxel"


def test_the_windows_are_those_that_the_encoder_sees(phantom_ct, tmp_path):
    settings = load_bundle(find_bundle()).preprocessing
    expected = preprocess(volume_of(phantom_ct), settings)

    export(phantom_ct, tmp_path, "--windows")

    low, high = settings.window_hu
    for number, (voxels, affine) in enumerate(zip(expected.voxels, expected.affines_lps_mm, strict=True), 1):
        image = nibabel.load(next(tmp_path.glob(f"*.window{number}.nii.gz")))
        np.testing.assert_allclose(image.get_fdata().T, voxels[0] * (high - low) + low, atol=1e-3)
        assert image.get_fdata().min() >= low and image.get_fdata().max() <= high
        ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine[:, [2, 1, 0, 3]]
        np.testing.assert_allclose(image.affine, ras, atol=1e-4)


def test_without_windows_no_model_is_needed(phantom_ct, tmp_path):
    (tmp_path / "models").mkdir()

    assert export(phantom_ct, tmp_path / "out", "-m", str(tmp_path / "models"))[0] == 0
    assert (
        ctvae(["export", str(phantom_ct), "-o", str(tmp_path / "o"), "-m", str(tmp_path / "models"), "--windows"]) == 3
    )


def test_each_series_has_its_outcome_and_a_rejected_one_leaves_no_file(tmp_path):
    write_ct_series(made_hu(), affine_for(SHAPE, SPACING), tmp_path / "in" / "good")
    write_ct_series(made_hu(1), affine_for(SHAPE, SPACING), tmp_path / "in" / "gap")[5].unlink()

    code, ended = export(tmp_path / "in", tmp_path / "out")

    assert code == 0
    assert ended == {"good": "written", "gap": "MISSING_SLICE"}
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1


def test_nothing_to_export_is_exit_code_2(tmp_path):
    write_ct_series(made_hu(), affine_for(SHAPE, SPACING), tmp_path / "in")[5].unlink()

    assert export(tmp_path / "in", tmp_path / "out")[0] == 2


def test_a_volume_that_breaks_while_it_is_written_leaves_nothing(tmp_path):
    def broken(d: int) -> HuSlice:
        if d == 7:
            raise SeriesFailed("INPUT_OUTPUT_ERROR", "the disk is gone")
        return HuSlice(made_hu()[d])

    series = Series("1.2", "1.3", ".", (Instance(tmp_path, Dataset()),))
    volume = Volume(series, SHAPE, affine_for(SHAPE, SPACING), SPACING, (), broken)

    with pytest.raises(SeriesFailed, match="the disk is gone"):
        write_volume_nifti(volume, tmp_path / "a.nii.gz")

    assert not list(tmp_path.iterdir())
