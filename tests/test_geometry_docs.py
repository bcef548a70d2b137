"""The table of codes in docs/geometry.md is the one of the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "geometry.md").read_text()
MODULES = (
    *("dicom_file", "read_header", "read_study", "select_series", "build_volume", "geometry", "slice_stack"),
    *("pixel_format", "read_pixels", "decode_slice", "enhanced_ct", "functional_groups", "frame_pixels"),
    *(
        "split_series",
        "repair_stack",
        "repair_headers",
        "input_files",
        "unpack",
        "image_header",
        "image_voxels",
        "read_image",
    ),
    *("nifti_header", "nrrd_header", "meta_image_header"),
)
RAISED = re.compile(
    r'(?:SeriesRejected|SeriesSkipped|SeriesFailed|StartError|Finding)\(\s*"([A-Z_]+)"'
    r'|_rejected\(instance, "([A-Z_]+)"|return "([A-Z_]+)", f"found|"failed", "([A-Z_]+)"'
    r'|reason = "([A-Z_]+)" if .* else "([A-Z_]+)"'
)


def codes_of(module: str) -> set[str]:
    source = (ROOT / "operators" / f"{module}.py").read_text()
    return {code for found in RAISED.findall(source) for code in found if code}


def codes_in_table() -> set[str]:
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| ")]
    return {code for row in rows for code in re.findall(r"`([A-Z_]+)`", row[2])}


def test_the_table_has_each_code_of_the_program_and_no_other():
    assert codes_in_table() == {code for module in MODULES for code in codes_of(module)}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", PAGE))))
def test_each_test_that_the_table_names_exists(name):
    sources = [path.read_text() for path in (ROOT / "tests").glob("test_*.py")]
    assert any(f"def {name}(" in source for source in sources)
