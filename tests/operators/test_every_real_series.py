"""Every good series of the real CT beside the checkout has the voxels and the affine that SimpleITK gives it.

Orientation is in the affine. The tilted phantom is not among them: SimpleITK does not straighten it (test_tilt.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from operators.build_volume import build_volume
from operators.errors import SeriesError
from operators.read_study import read_studies
from operators.series.ct_images import keep_ct_images
from operators.types import Volume

GOOD_SERIES = {
    "4dlung_p113": 1,
    "cip_chest": 2,
    "cmbcrc_01068": 1,
    "crlm_1004": 1,
    "derived": 4,
    "elastix_lung": 2,
    "innereye_scan_small": 1,
    "invesalius_cranium": 1,
    "lesionsizing": 2,
    "lidc_partial": 3,
    "sts": 39,
    "totalseg_nifti": 4,
}


@pytest.mark.parametrize(("name", "expected"), GOOD_SERIES.items())
def test_every_good_series_is_read_as_simpleitk_reads_it(shared_ct, name, expected):
    volumes = good_volumes(shared_ct(name))
    assert len(volumes) == expected
    for volume in volumes:
        hu, affine = reference(volume)
        assert volume.shape == hu.shape
        ends = np.array([(*index, 1) for index in np.ndindex(2, 2, 2)], float) * (*np.subtract(hu.shape, 1), 1)
        np.testing.assert_allclose(ends @ volume.affine_lps_mm.T, ends @ affine.T, rtol=0, atol=1e-3)
        np.testing.assert_array_equal(volume.voxels(), np.where(hu < -1024, -1000, np.rint(hu)))


def good_volumes(folder: Path) -> list[Volume]:
    volumes = []
    for study in read_studies(folder).studies:
        for series in study.series:
            try:
                volumes.append(build_volume(keep_ct_images(series)))
            except SeriesError:
                continue
    return volumes


def reference(volume: Volume):
    """SimpleITK's voxels and affine, in our order of axes (z, y, x) → LPS."""
    paths = [instance.path for instance in volume.series.instances]
    if volume.series.image:
        image = sitk.ReadImage(str(paths[0]))
    else:
        reader = sitk.ImageSeriesReader()
        names = reader.GetGDCMSeriesFileNames(str(paths[0].parent), volume.series.series_instance_uid)
        assert {Path(name).resolve() for name in names} == {path.resolve() for path in paths}
        reader.SetFileNames(names)
        image = reader.Execute()
    affine = np.eye(4)
    columns = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, :3], affine[:3, 3] = columns[:, ::-1], image.GetOrigin()
    return sitk.GetArrayFromImage(image), affine
