"""What programs that are not ours say of the SR: DCMTK reads all of it, PixelMed finds no error in the templates."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from operators.sr.write import sr_bytes
from operators.types import Finding
from tests.support.checkout import skip_or_fail
from tests.support.sr_records import dciodvfy, made_record, made_reliability

DSRDUMP = Path("/usr/bin/dsrdump")  # of DCMTK; pynetdicom puts programs of other makers before it
JAVA_LIBRARIES = Path("/usr/share/java")
QUICK_START = "-XX:TieredStopAtLevel=1"
NO_XPATH_LIMITS = [f"-Djdk.xml.xpath{limit}Limit=0" for limit in ("TotalOp", "ExprOp", "ExprGrp")]

NUMBERS = [
    ("Reconstruction error", "31.5", "[hnsf'U]"),
    ("Percentile among the reference patients", "43.589745", "%"),
    ("Conformal p", "57.5", "%"),
    ("Mahalanobis distance of the latent mean", "5.25", "1"),
    ("Reconstruction error ratio", "0.625", "1"),
    ("Outlier score", "-4.125", "1"),
    ("Orientation score", "-2.375", "1"),
    ("Mean of the body", "-35.625", "[hnsf'U]"),
    ("Lung in the body", "9.67", "%"),
    ("Real voxels in the windows", "75", "%"),
    ("body area cm2", "502.5", "cm2"),
    ("VAE latent 00 mean", "0.5", "1"),
    ("VAE latent 00 SD", "0.25", "1"),
    ("VAE layer dense, dimension 0", "1.0", "1"),
]


@pytest.fixture(scope="module")
def every_kind_of_group(tmp_path_factory):
    """A small SR that has all that one can have."""
    vectors = {"mu": [0.5], "sigma": [0.25], "dense": [1.0], "block1": [0.0] * 257}
    quantities = {"mean_hu": -35.625, "lung_fraction": 0.0967, "fat_fraction": None, "body_area_cm2": 502.5}
    findings = (Finding("OBLIQUE", "12 degrees about x"),)
    record = made_record(taps=vectors, quantities=quantities, findings=findings, reliability=made_reliability(), part=2)
    file = tmp_path_factory.mktemp("validators") / "features.sr.dcm"
    file.write_bytes(sr_bytes(record))
    return file


def test_dciodvfy_finds_no_error(every_kind_of_group, tmp_path):
    assert dciodvfy(every_kind_of_group.read_bytes(), tmp_path) == []


def test_dsrdump_reads_the_tree_and_its_numbers(every_kind_of_group):
    if not DSRDUMP.exists():
        skip_or_fail("no DCMTK; run .ci/programs")
    done = subprocess.run([DSRDUMP, "+Pl", every_kind_of_group], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r'NUM:\(,,"(.*?)"\)="(.*?)" \((.*?),UCUM', done.stdout) == NUMBERS
    assert done.stdout.count("selected from IMAGE:=(CT image,)") == 2
    assert 'SCOORD:(,,"Anchor of the text, no region")=(POINT,' in done.stdout
    assert 'TEXT:(,,"Comment")="Not for diagnosis. Typical CT: percentile 44, p 0.57"' in done.stdout
    assert 'TEXT:(,,"Finding")="OBLIQUE: 12 degrees about x"' in done.stdout


def test_pixelmed_finds_no_error_in_the_templates(every_kind_of_group):
    jar = JAVA_LIBRARIES / "pixelmed.jar"
    if not shutil.which("java") or not jar.exists():
        skip_or_fail("no PixelMed; run .ci/programs")
    command = ["java", QUICK_START, *NO_XPATH_LIMITS, "-cp", jar, "com.pixelmed.validate.DicomSRValidator"]
    done = subprocess.run([*command, every_kind_of_group], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert "Found Root Template TID_1500 (MeasurementReport)" in said
    assert "IOD validation complete" in said
    assert [line for line in said if line.startswith("Error")] == []
    warnings = [line for line in said if line.startswith("Warning")]
    assert [line for line in warnings if not line.endswith("Content Item not in template")] == []
