"""With `--data` and `--model`: pictures, rivals that need no network, and controls on pixels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from app.cli import main
from app.cohort.indexed_series import index_folder, open_indexed
from app.settings import Settings
from tests.support.bundles import write_small_bundle
from tests.support.cohorts import write_cohort


@pytest.fixture(scope="module")
def report(tmp_path_factory, cohort) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    uids = pd.read_parquet(cohort / "t.parquet").series_instance_uid
    (folder / "labels.csv").write_text(
        "series_instance_uid,y\n" + "".join(f"{uid},{k}\n" for k, uid in enumerate(uids))
    )
    given = ["--data", cohort / "ct", "--model", cohort / "models" / "small", "--labels", folder / "labels.csv"]
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


@pytest.fixture(scope="module")
def encoded_as_cohort(cohort) -> Path:
    output = cohort / "cohort"
    arguments = ["cohort", cohort / "ct", "-o", output, "-m", cohort / "models", "--workers", "1"]
    assert main([*map(str, arguments)]) == 0
    return output


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
    arguments = ["--data", str(cohort / "ct"), "--model", str(tmp_path / "other"), "-o", str(tmp_path / "out")]
    assert main(["explain", str(cohort / "t.parquet"), *arguments]) == 3
    assert "MIXED_MODELS" in capsys.readouterr().err


def test_data_without_the_series_are_one_line(cohort, phantom_ct, tmp_path, capsys):
    arguments = ["--data", str(phantom_ct), "--model", str(cohort / "models" / "small"), "-o", str(tmp_path / "out")]
    assert main(["explain", str(cohort / "t.parquet"), *arguments]) == 3
    assert "NO_DATA" in capsys.readouterr().err


def test_the_output_of_a_cohort_is_taken_for_features_for_scans_and_for_the_key_of_patient_ids(
    encoded_as_cohort, cohort, tmp_path
):
    labels = "patient_id,y\n" + "".join(f"SECRET{k},{k}\n" for k in range(1, 11))
    (tmp_path / "labels.csv").write_text(labels)
    bundle, output = cohort / "models" / "small", tmp_path / "out"
    arguments = [
        encoded_as_cohort,
        "--data",
        encoded_as_cohort,
        "--model",
        bundle,
        "--labels",
        tmp_path / "labels.csv",
    ]
    assert main(["explain", *map(str, arguments), "-o", str(output)]) == 0
    found = sections(output)
    assert "10 series have one, 0 have none" in found["joining"]["found"]
    features = {row["features"] for row in found["probes"]["tables"]["probes"]}
    assert "HU histogram" in features, "every series of the table was found among the scans"
    assert "SECRET" not in (output / "report.json").read_text() + (output / "report.html").read_text()


def test_only_the_studies_that_are_asked_for_are_opened(encoded_as_cohort, cohort, tmp_path):
    index = index_folder(encoded_as_cohort / "index" / "files.parquet")
    assert index == encoded_as_cohort / "index" and index_folder(cohort) is None
    uid = pd.read_parquet(cohort / "t.parquet").series_instance_uid[4]
    with open_indexed(index, Settings(), {uid}) as jobs:
        assert [job.series.series_instance_uid for job in jobs] == [uid]


def test_a_cohort_whose_scans_went_away_is_said_plainly(encoded_as_cohort, cohort, tmp_path, capsys):
    moved = tmp_path / "cohort"
    shutil.copytree(encoded_as_cohort, moved)
    (moved / "index" / "data.json").write_text(json.dumps({"root": str(tmp_path / "gone")}))
    bundle = cohort / "models" / "small"
    assert main(["explain", str(moved), "--data", str(moved), "--model", str(bundle), "-o", str(tmp_path / "o")]) == 3
    assert "NO_DATA: the data of the cohort are no longer where" in capsys.readouterr().err
