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
from operators.sr.write import sr_bytes
from operators.synthetic.write_ct import CtOptions, affine_for, write_ct_series
from operators.synthetic.write_enhanced_ct import write_enhanced_ct
from tests.support.checkout import ROOT, skip_or_fail
from tests.support.orthanc import PATH, need_orthanc, own_network
from tests.support.sr_records import made_reliability, record_of_series

DIST = ROOT / ".cache" / "ohif-3.13.2" / "dist"
SHAPE, SPACING_MM = (9, 128, 160), (5.0, 2.0, 2.0)

JUDGED = {"axial": "in_distribution", "coronal": "out_of_distribution"}
ERROR = "Reconstruction error: 31.50 [hnsf'U]"
VERDICTS = {
    "-10": ["Not for diagnosis. Typical CT: percentile 44, p 0.57: ", ERROR],
    "-11": ["Not for diagnosis. Atypical CT: percentile 44, p 0.025: ", ERROR],
    "-12": ["Not for diagnosis. Reliability not assessed: "],
}
"""Of the series with this mean: the lines before it."""


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
        record = record_of_series(folder / name, mean_hu=-10.0 - number)
        judged = None if name == "enhanced" else made_reliability(JUDGED[name])
        file.write_bytes(sr_bytes(replace(record, reliability=judged)))
        files.append(file)
    return files


def test_no_sr_makes_the_viewer_stumble(seen):
    assert [text for kind, text in seen["said"] if kind == "pageerror" or "Error" in text] == []


def test_each_sr_shows_the_verdict_and_the_numbers_beside_its_image(seen):
    shown = {line: lines for lines in seen["lines"] for line in lines if line.startswith("Mean of the body")}
    assert set(shown) == {f"Mean of the body: {mean:.2f} [hnsf'U]" for mean in (-10, -11, -12)}
    for mean, lines in shown.items():
        verdict = VERDICTS[mean.removeprefix("Mean of the body: ").partition(".")[0]]
        assert lines[: len(verdict)] == verdict
        assert lines[len(verdict) : len(verdict) + 2] == [mean, "Lung in the body: 25.00 %"]
        assert lines[len(verdict) + 2].startswith("Real voxels in the windows: ")
