"""With `--data` and `--bundle`: pictures, rivals that need no network, and controls on pixels."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from app.cli import main
from tests.support.bundles import write_small_bundle
from tests.support.cohorts import write_cohort


@pytest.fixture(scope="module")
def report(tmp_path_factory, cohort) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    uids = pd.read_parquet(cohort / "t.parquet").series_instance_uid
    (folder / "labels.csv").write_text(
        "series_instance_uid,y\n" + "".join(f"{uid},{k}\n" for k, uid in enumerate(uids))
    )
    given = ["--data", cohort / "ct", "--bundle", cohort / "models" / "small", "--labels", folder / "labels.csv"]
    assert main(["explain", str(cohort / "t.parquet"), *map(str, given), "-o", str(folder / "out")]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_small_bundle(folder / "models" / "small")
    write_cohort(folder / "ct", 10)
    assert main(["encode", str(folder / "ct"), "-o", str(folder / "out"), "-m", str(folder / "models")]) == 0
    assert main(["table", str(folder / "out"), "-o", str(folder / "t.parquet")]) == 0
    return folder


def sections(report: Path) -> dict[str, dict]:
    return {one["key"]: one for one in json.loads((report / "report.json").read_text())["sections"]}


def test_a_dimension_is_moved_through_the_decoder_traced_back_and_seen_in_its_extremes(report):
    assert "3 pictures" in sections(report)["dimensions"]["found"]
    page = (report / "report.html").read_text()
    assert all(text in page for text in ("decodes it", "integrated gradients", "the lowest values"))
    assert len(sections(report)["dimensions"]["tables"]["extremes"]) == 4 * 10


def test_the_rivals_stand_beside_the_features(report):
    rows = sections(report)["probes"]["tables"]["probes"]
    expected = {"mu", "HU histogram", "PCA of the windows", "body voxels shuffled", "body voxels random"}
    assert expected <= {row["features"] for row in rows}


def test_a_bundle_that_did_not_make_the_features_is_refused(cohort, tmp_path, capsys):
    write_small_bundle(tmp_path / "other", seed=1)
    arguments = ["--data", str(cohort / "ct"), "--bundle", str(tmp_path / "other"), "-o", str(tmp_path / "out")]
    assert main(["explain", str(cohort / "t.parquet"), *arguments]) == 3
    assert "MIXED_MODELS" in capsys.readouterr().err


def test_data_without_the_series_are_one_line(cohort, phantom_ct, tmp_path, capsys):
    arguments = ["--data", str(phantom_ct), "--bundle", str(cohort / "models" / "small"), "-o", str(tmp_path / "out")]
    assert main(["explain", str(cohort / "t.parquet"), *arguments]) == 3
    assert "NO_DATA" in capsys.readouterr().err
