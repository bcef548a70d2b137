"""The table of codes in docs/geometry.md is the one of the program."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.checkout import ROOT

PAGE = (ROOT / "docs" / "geometry.md").read_text()
MODULES = sorted(
    path
    for where in (
        "dicom/*",
        "geometry/*",
        "images/*",
        "input/*",
        "series/split",
        "series/ct_images",
        "series/acquisition",
        "read_study",
        "build_volume",
        "preprocess",
    )
    for path in (ROOT / "operators").glob(f"{where}.py")
)
RAISED = re.compile(
    r'(?:SeriesRejected|SeriesSkipped|SeriesFailed|StartError|Finding)\(\s*"([A-Z_]+)"'
    r'|\brejected\(instance, "([A-Z_]+)"|return "([A-Z_]+)", f"found|"failed", "([A-Z_]+)"'
    r'|reason = "([A-Z_]+)" if .* else "([A-Z_]+)"'
)


def codes_of(module: Path) -> set[str]:
    return {code for found in RAISED.findall(module.read_text()) for code in found if code}


def codes_in_table() -> set[str]:
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| ")]
    return {code for row in rows for code in re.findall(r"`([A-Z_]+)`", row[2])}


def test_the_table_has_each_code_of_the_program_and_no_other():
    of_geometry = {code for module in MODULES for code in codes_of(module)} - {"ARRAYS_ONLY", "SLICE_SHAPE"}
    assert codes_in_table() == of_geometry


def test_each_test_that_the_table_names_exists():
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert sorted(name for name in named if f"def {name}(" not in sources) == []
