"""`ctvae explain`: one page that needs nothing else, every number in CSV and JSON, and it says what is true."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest

from app.cli import main
from tests.support.feature_tables import made_table, write_table

SERIES = 2


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """30 patients with two series each; mu_001 follows age, and mu_002 … mu_005 are the same again."""
    folder = tmp_path_factory.mktemp("explain")
    rng = np.random.default_rng(5)
    age = np.repeat(rng.normal(60, 10, 30), SERIES)
    table = made_table(30, series=SERIES, dimensions=6, seed=5, sex=np.repeat(rng.choice(["F", "M"], 30), SERIES))
    mu = table.taps["mu"]
    mu[:, 1] += 2 * (age - 60) / 10
    mu[:, 2:] = mu[:, 1:2] + 0.05 * mu[:, 2:]
    table.taps["sigma"] = rng.random(mu.shape).astype(np.float32)  # type: ignore[index]
    (folder / "labels.csv").write_text(
        "patient_key,age,site,constant\n"
        + "".join(f"key{k},{age[SERIES * k]},{'NS'[k % 2]}<b>&,1\n" for k in range(29))
        + "keyX,1,N,1\n"
    )
    path = write_table(table, folder / "t.parquet")
    assert main(["explain", str(path), "--labels", str(folder / "labels.csv"), "-o", str(folder / "out")]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def document(report):
    return json.loads((report / "report.json").read_text())


def section(document, key):
    (found,) = (one for one in document["sections"] if one["key"] == key)
    return found


def test_the_columns_of_associations_are_those_that_scripts_rely_on(report):
    with (report / "associations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"feature", "label", "n", "primary", "statistic", "p", "p_bh", "p_maxt"} <= set(rows[0])
    assert len(rows) == 6 * 2
    assert rows[0]["label"] == "age" and float(rows[0]["p_maxt"]) < 0.01 and rows[0]["n"] == "29"


def test_every_table_of_the_json_is_a_csv_with_the_same_rows(report, document):
    tables = {name: rows for one in document["sections"] for name, rows in one["tables"].items()}
    assert {f"{name}.csv" for name in tables} == {path.name for path in report.glob("*.csv")}
    for name, rows in tables.items():
        with (report / f"{name}.csv").open() as file:
            assert len(list(csv.DictReader(file))) == len(rows)


def test_the_page_asks_nothing_of_the_network_and_escapes_what_labels_say(report):
    page = (report / "report.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:image/png|#)", page)
    assert "<script" not in page and "@import" not in page and "default-src 'none'" in page
    assert "N<b>" not in page


def test_each_section_says_what_it_found_and_what_that_does_not_mean(document):
    computed = [one for one in document["sections"] if one["computed"] and one["key"] != "joining"]
    assert len(computed) >= 6
    assert [one["key"] for one in computed if not (one["found"].endswith(".") and one["does_not_mean"])] == []


def test_one_fact_told_five_times_is_said_to_be_one(document):
    assert "told" in section(document, "redundancy")["found"]
    assert "5 of 6 features before correction, 5 after" in " ".join(section(document, "associations")["notes"])


def test_age_is_predicted_better_than_by_its_controls_and_the_site_is_not(document):
    said = section(document, "probes")["found"]
    assert said == "Better than every control: age. Not shown to be above chance: site."


def test_a_best_layer_is_named_only_for_a_label_that_it_predicts(document):
    said = section(document, "layers")["found"]
    assert said.startswith("The layers with the best scores are mu for age. No layer is shown to predict site.")


def test_both_sides_without_a_partner_are_counted_and_listed(document):
    joining = section(document, "joining")
    assert "by patient_key: 58 series have one, 2 have none, and 1 labels" in joining["found"]
    assert [row["which"] for row in joining["tables"]["unmatched"]] == ["1.2.58", "1.2.59", 31]


def test_a_constant_column_is_named_with_its_reason(document):
    assert any(note.startswith("constant is not tested: constant") for note in document["notes"])


def test_repeat_scans_know_their_patient(document):
    rows = {row["figure"]: row["value"] for row in section(document, "repeats")["tables"]["repeats"]}
    assert rows["median distance, one patient"] < rows["median distance, two patients"]
    assert rows["nearest scan is of the same patient"] > 5 * rows["the same, by guessing"]


def test_the_same_call_gives_the_same_numbers(report, tmp_path):
    source = report.parent
    arguments = [str(source / "t.parquet"), "--labels", str(source / "labels.csv"), "-o", str(tmp_path / "again")]
    assert main(["explain", *arguments]) == 0
    assert (tmp_path / "again" / "report.json").read_bytes() == (report / "report.json").read_bytes()


@pytest.mark.parametrize(
    ("patients", "options", "reason"),
    [
        (2, (), "TOO_FEW_PATIENTS"),
        (12, ("--tap", "dense"), "NO_SUCH_TAP"),
        (12, ("--covariates", "weight"), "BAD_COVARIATE"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_code_3(tmp_path, capsys, patients, options, reason):
    path = write_table(made_table(patients), tmp_path / "t.parquet")
    assert main(["explain", str(path), "-o", str(tmp_path / "out"), *options]) == 3
    assert reason in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_labels_are_printed_as_the_file_names_them(tmp_path, capsys):
    path = write_table(made_table(8, dimensions=3), tmp_path / "t.parquet")
    lines = [f"key{k},{k % 5},1" for k in range(8)]
    (tmp_path / "labels.csv").write_text("\n".join(["patient_key,dose [mg],constant [x]", *lines]))
    assert main(["explain", str(path), "--labels", str(tmp_path / "labels.csv"), "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "dose [mg]" in printed.out and "constant [x] is not tested" in printed.err
    assert "\\" not in printed.out + printed.err


def test_fewer_than_ten_patients_are_computed_and_said_to_prove_nothing(tmp_path, capsys):
    path = write_table(made_table(8, y=np.arange(8.0)), tmp_path / "t.parquet")
    assert main(["explain", str(path), "-o", str(tmp_path / "out")]) == 0
    assert "fewer than ten" in capsys.readouterr().err
    assert (tmp_path / "out" / "associations.csv").exists()
