"""Ten images of one's own, neighbours, and drift: what is there is found, what is not is not."""

from __future__ import annotations

import json

import pytest

from app.cli import main
from app.explain.data.question import ask
from app.explain.sections.ten_images import read_groups, ten_images_section
from operators.errors import StartError
from tests.support.feature_tables import made_table, write_table


@pytest.fixture
def lists(tmp_path):
    """Series 0 to 9 and 10 to 19, one UID per line."""
    for name, start in (("a.txt", 0), ("b.txt", 10)):
        (tmp_path / name).write_text("".join(f"1.2.{k}\n" for k in range(start, start + 10)))
    return tmp_path / "a.txt", tmp_path / "b.txt"


def section(table, lists):
    return ten_images_section(ask(table), read_groups(table, *lists))


def test_a_dimension_that_parts_ten_from_ten_is_found(lists):
    table = made_table(40, dimensions=8, seed=1)
    table.taps["mu"][:10, 3] += 4
    found = section(table, lists)
    assert found.found.startswith("1 of 8 dimensions set 10 positive and 10 negative series apart")
    assert next(found.tables[0].records())["feature"] == "mu_003"
    assert next(found.tables[0].records())["auc"] > 0.95


def test_ten_of_the_same_are_not_set_apart_and_how_little_ten_can_prove_is_said(lists):
    found = section(made_table(40, dimensions=8, seed=2), lists)
    assert found.found.startswith("No dimension")
    power = {row["figure"]: row["value"] for row in found.tables[1].records()}
    least, gap = power.values()
    assert 0.8 < least < 0.95 and 1.3 < gap < 2.5


def test_the_smallest_auc_that_can_be_found_is_where_p_crosses(lists):
    table = made_table(40, dimensions=8, seed=3)
    found = section(table, lists)
    least = next(found.tables[1].records())["value"]
    for row in found.tables[0].records():
        away = 0.5 + abs(row["auc"] - 0.5)
        assert (row["p_maxt"] < 0.05) == (away > least) or abs(away - least) < 0.02


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [("1.2.0\n1.2.1\n", "1.2.5\n1.2.6\n1.2.7\n", "2 patients of the positive"), ("1.2.0\n", "1.2.0\n", "in both")],
)
def test_lists_that_cannot_be_compared_are_one_line(tmp_path, first, second, said):
    (tmp_path / "a").write_text(first)
    (tmp_path / "b").write_text(second)
    with pytest.raises(StartError, match=said):
        read_groups(made_table(20), tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("metric", ["standardised", "whitened", "cosine"])
def test_the_nearest_series_are_those_of_the_same_patient(tmp_path, capsys, metric):
    path = write_table(made_table(20, series=2, dimensions=8, repeat_noise=0.1), tmp_path / "t.parquet")
    assert main(["similar", "1.2.6", "--index", str(path), "-n", "3", "--metric", metric, "--json"]) == 0
    first, *others = json.loads(capsys.readouterr().out)
    assert first["series_instance_uid"] == "1.2.7" and first["same_patient"] and first["nearer_than"] == 1
    assert len(others) == 2 and first["distance"] < others[0]["distance"] <= others[1]["distance"]


def test_an_unknown_series_is_one_line(tmp_path, capsys):
    path = write_table(made_table(5), tmp_path / "t.parquet")
    assert main(["similar", "9.9", "--index", str(path)]) == 3
    assert "NO_SUCH_SERIES" in capsys.readouterr().err


def drifts(path, capsys, *options):
    assert main(["drift", str(path), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_scanner_with_other_features_drifts_and_one_without_does_not(tmp_path, capsys):
    scanner = ["A"] * 40 + ["B"] * 30 + ["C"] * 30 + ["D"] * 3
    table = made_table(103, dimensions=8, manufacturer_model=scanner)
    table.taps["mu"][40:70, 2] += 2
    found = drifts(write_table(table, tmp_path / "t.parquet"), capsys)
    b, c = found["groups"]
    assert (found["reference"], found["left_out"]) == ("A", ["D"])
    assert b["p_corrected"] < 0.01 and b["changed"] == [2]
    assert c["p"] > 0.05 and c["changed"] == []


def test_a_later_period_drifts_from_the_first(tmp_path, capsys):
    table = made_table(80, dimensions=4)
    table.taps["mu"][60:, 1] += 2
    path = write_table(table, tmp_path / "t.parquet")
    lines = [f"1.2.{k},2020-{1 + k // 20:02d}-{1 + k % 20:02d}" for k in range(80)]
    (tmp_path / "dates.csv").write_text("\n".join(["series_instance_uid,date", *lines]))
    found = drifts(path, capsys, "--labels", str(tmp_path / "dates.csv"), "--by", "date")
    assert found["reference"].startswith("1: 2020-01-01") and found["reference_patients"] == 20
    assert [one["p_corrected"] < 0.05 for one in found["groups"]] == [False, False, True]


def test_groups_are_printed_as_the_table_names_them_but_for_what_would_steer_the_terminal(tmp_path, capsys):
    table = made_table(60, dimensions=4, manufacturer_model=["A [x]"] * 30 + ["B [y]\x1b[2J"] * 30)
    assert main(["drift", str(write_table(table, tmp_path / "t.parquet"))]) == 0
    out = capsys.readouterr().out
    assert "reference: A [x] (30 patients)" in out and out.endswith("  B [y]?[2J\n")


def test_a_series_is_printed_as_the_table_names_it(tmp_path, capsys):
    path = write_table(made_table(5, series_instance_uid=[f"{k} [b]" for k in range(5)]), tmp_path / "t.parquet")
    assert main(["similar", "0 [b]", "--index", str(path), "-n", "1"]) == 0
    assert capsys.readouterr().out.endswith(" [b]\n")


@pytest.mark.parametrize(("options", "reason"), [(("--by", "nothing"), "BAD_COLUMN"), ((), "TOO_FEW_PATIENTS")])
def test_drift_that_cannot_be_asked_is_one_line(tmp_path, capsys, options, reason):
    path = write_table(made_table(9, manufacturer_model="A"), tmp_path / "t.parquet")
    assert main(["drift", str(path), *options]) == 3
    assert reason in capsys.readouterr().err
