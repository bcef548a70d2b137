"""A radiologist double-clicks our SR in OHIF and reads what was measured; `make ohif` unpacks the viewer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.phantom import PhantomFactors, make_phantom
from models.spec import Preprocessing
from operators.build_volume import build_volume
from operators.preprocess import preprocess
from operators.read_study import read_studies
from operators.sr.write import sr_bytes
from operators.synthetic.write_ct import CtOptions, affine_for, write_ct_series
from operators.synthetic.write_enhanced_ct import write_enhanced_ct
from tests.support.checkout import ROOT, skip_or_fail
from tests.support.orthanc import PATH, need_orthanc, own_network
from tests.support.sr_records import made_record

DIST = ROOT / ".cache" / "ohif-3.13.2" / "dist"
SHAPE, SPACING_MM = (9, 128, 160), (5.0, 2.0, 2.0)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What OHIF shows of an axial, a coronal and an Enhanced series of one study, each with its SR."""
    need_orthanc()
    if not DIST.is_dir() or shutil.which("chromium") is None:
        skip_or_fail("no OHIF in .cache or no chromium; run .ci/programs and make ohif")
    folder = tmp_path_factory.mktemp("ohif")
    files = made_study(folder / "study")
    command = [*own_network(), sys.executable, "-m", "tests.support.ohif", DIST, folder, *files]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PATH": PATH}, check=False
    )
    assert done.returncode == 0, done.stderr
    for picture in folder.glob("ohif*.png"):
        shutil.copy(picture, DIST.parents[1])
    return json.loads(done.stdout)


def made_study(folder: Path) -> list[Path]:
    affine = affine_for(SHAPE, SPACING_MM)
    coronal = affine.copy()
    coronal[:3, :3] = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]) @ affine[:3, :3]
    hu = make_phantom(PhantomFactors(), shape=SHAPE, spacing_mm=SPACING_MM, seed=1)
    write_ct_series(hu, affine, folder / "axial", CtOptions())
    write_ct_series(hu, coronal, folder / "coronal", CtOptions())
    write_enhanced_ct(hu, affine, folder / "enhanced", CtOptions())
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    for number, name in enumerate(("axial", "coronal", "enhanced")):
        file = folder / f"{name}.sr.dcm"
        file.write_bytes(sr_bytes(record_of(folder / name, mean_hu=-10.0 - number)))
        files.append(file)
    return files


def record_of(folder: Path, mean_hu: float):
    """Made numbers on the windows of a real reading."""
    (study,) = read_studies(folder).studies
    volume = build_volume(study.series[0])
    windows = preprocess(volume, Preprocessing("window", (40, 40, 40), (4.0, 4.0, 4.0), (-1000.0, 1000.0)))
    record = made_record(quantities={"mean_hu": mean_hu, "lung_fraction": 0.25, "body_area_cm2": 500.0})
    taps = {
        name: replace(tap, windows=np.repeat(tap.windows[:1], len(windows.voxels), axis=0))
        for name, tap in record.taps.items()
    }
    return replace(record, encoding=replace(record.encoding, windows=windows, taps=taps))


def test_no_sr_makes_the_viewer_stumble(seen):
    assert [text for kind, text in seen["said"] if kind == "pageerror" or "Error" in text] == []


def test_each_sr_shows_the_verdict_and_the_numbers_beside_its_image(seen):
    shown = {line: lines for lines in seen["lines"] for line in lines if line.startswith("Mean of the body")}
    assert set(shown) == {f"Mean of the body: {mean:.2f} [hnsf'U]" for mean in (-10, -11, -12)}
    for mean, lines in shown.items():
        assert lines[:3] == ["Not for diagnosis. Reliability not assessed: ", mean, "Lung in the body: 25.00 %"]
        assert lines[3].startswith("Real voxels in the windows: ")
