"""What is read: a table, labels, their types; what is wrong with them is said in one line, the rest is computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.explain.data.feature_table import read_features
from app.explain.data.join_labels import join_labels
from app.explain.data.labels import Label, Unusable, as_label, one_series_each
from app.explain.data.question import ask
from operators.errors import StartError
from operators.make_record import patient_key
from tests.support.feature_tables import made_table, write_table

WHO = np.arange(30).astype(str)


def labels(tmp_path, text: str):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_is_read_back_with_its_taps_and_columns(tmp_path):
    made = made_table(12, sex="F")
    read = read_features(write_table(made, tmp_path / "t.parquet"))
    assert np.array_equal(read.taps["mu"], made.taps["mu"])
    assert read.texts("sex").tolist() == ["F"] * 12 and read.notes == ()
    assert np.array_equal(read.columns["thickness_mm"], made.columns["thickness_mm"])


def test_a_csv_gives_the_same_table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("series_instance_uid,patient_key,kvp,mu_000,mu_001\n1.2,k,120,0.5,-1\n1.3,,,2,3e-8\n")
    read = read_features(path)
    assert read.texts("series_instance_uid").tolist() == ["1.2", "1.3"]
    assert np.array_equal(read.taps["mu"], np.array([[0.5, -1], [2, 3e-8]], np.float32))
    assert np.array_equal(read.columns["kvp"], [120, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "not those of features"),
        ("series_instance_uid,tap,dimension,value\n1.2,mu,0,1\n", "long form"),
        ("series_instance_uid,mu_000\n", "no rows"),
        ("series_instance_uid,mu_000\n1.2,x\n", "holds text"),
        ("series_instance_uid,mu_000\n1.2,nan\n", "not a finite number"),
    ],
)
def test_what_is_no_table_of_features_is_said(tmp_path, text, said):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(StartError, match=said) as raised:
        read_features(path)
    assert raised.value.reason == "BAD_TABLE"


def test_of_mixed_models_the_larger_part_is_used_and_that_is_said(tmp_path):
    made = made_table(12, model_digest=["a" * 64] * 8 + ["b" * 64] * 4)
    read = read_features(write_table(made, tmp_path / "t.parquet"))
    assert len(read) == 8 and "2 models are mixed" in read.notes[0]


def test_without_a_patient_key_a_study_is_a_patient_and_that_is_said(tmp_path):
    read = read_features(write_table(made_table(5, series=2, patient_key=""), tmp_path / "t.parquet"))
    assert len(set(read.patients)) == 5 and "no patient_key" in read.notes[0]


def test_labels_join_on_the_first_key_that_they_have_and_both_sides_are_counted(tmp_path):
    file = labels(tmp_path, "patient_key,grade,series_instance_uid\nkey9,2,1.2.0\nkey9,3,1.2.1\n,4,1.2.77\n")
    joined = join_labels(made_table(3), file, None)
    assert joined.key == "series_instance_uid" and joined.names == ("grade",)
    assert joined.table.columns["grade"].tolist() == [2, 3]
    assert joined.without_label == ("1.2.2",) and joined.without_features == (4,)
    assert len([note for note in joined.table.notes if "unmatched.csv" in note]) == 2


def test_patient_ids_are_hashed_with_the_sites_key_and_kept_nowhere(tmp_path):
    table = made_table(3, patient_key=[patient_key(b"secret", f"ID{k}") for k in range(3)])
    file = labels(tmp_path, "patient_id;grade\nID1;7\nID0;x\nID9;2\n")
    joined = join_labels(table, file, b"secret")
    assert joined.table.texts("grade").tolist() == ["x", "7"]
    assert "ID" not in repr((joined.names, joined.table.columns, joined.table.notes, joined.without_features))
    with pytest.raises(StartError, match="CTVAE_SITE_KEY"):
        join_labels(table, file, None)


def test_a_key_with_two_different_answers_is_left_out_and_its_lines_are_named(tmp_path):
    file = labels(tmp_path, "series_instance_uid,y\n1.2.0,1\n\n1.2.1,2\n1.2.1,3\n1.2.2,5\n1.2.2,5\n")
    joined = join_labels(made_table(3), file, None)
    assert joined.table.columns["y"].tolist() == [1, 5]
    assert any("lines 4, 5" in note for note in joined.table.notes)
    assert any("repeat an earlier one" in note for note in joined.table.notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("series_instance_uid,y\n9.9,1\n", "none of 1 values of series_instance_uid"),
        ("name,y\nx,1\n", "expected one of series_instance_uid"),
        ("series_instance_uid\n1.2.0\n", "no other"),
        ("series_instance_uid,y\n1.2.0,1,2\n", "line 2 of the labels has 3 cells"),
        ("series_instance_uid,y,y\n1.2.0,1,2\n", "two columns"),
        ("series_instance_uid,y\n", "1 lines"),
        ("source_path,y\nx,1\n", "--with-paths"),
    ],
)
def test_labels_that_cannot_be_joined_are_one_clear_line(tmp_path, text, said):
    with pytest.raises(StartError, match=said) as raised:
        join_labels(made_table(3), labels(tmp_path, text), None)
    assert raised.value.reason == "BAD_LABELS" and "\n" not in raised.value.message


def test_a_number_is_a_number_and_two_values_are_classes():
    number = as_label("age", np.arange(30.0), WHO)
    two = as_label("event", np.arange(30) % 2 * 1.0, WHO)
    assert isinstance(number, Label) and number.kind == "number" and number.classes == ()
    assert isinstance(two, Label) and two.classes == ("0", "1")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.full(30, 120.0), "constant"),
        (np.full(30, ""), "no row has a value"),
        (np.arange(30).astype(str), "fewer than two classes"),
        (np.repeat(np.arange(25), 4).astype(str), "identifier"),
        (np.array(["a"] * 28 + ["b"] * 2), "fewer than two classes"),
    ],
)
def test_a_column_that_cannot_be_tested_says_why(values, why):
    found = as_label("y", values, np.arange(len(values)).astype(str))
    assert isinstance(found, Unusable) and why in found.why


def test_small_classes_and_missing_values_are_left_out_and_counted():
    found = as_label("y", np.array(["a"] * 14 + ["b"] * 12 + ["c"] + [""] * 3), WHO)
    assert isinstance(found, Label) and found.classes == ("a", "b") and found.there.sum() == 26
    assert len(found.notes) == 2 and "3 of 30 rows" in found.notes[0] and "(c)" in found.notes[1]


def test_a_scan_that_is_there_twice_is_pointed_out():
    table = made_table(20)
    assert ask(table).table.notes == ()
    table.taps["mu"][3] = table.taps["mu"][4]
    assert "2 rows have the features of another row" in ask(table).table.notes[0]


def test_one_series_per_patient_whatever_the_order_of_the_rows():
    table = made_table(20, series=3)
    chosen = one_series_each(table)
    again = one_series_each(table.rows(np.random.default_rng(1).permutation(60)))
    assert len(chosen) == 20 and "60 series of 20 patients" in chosen.notes[0]
    assert set(chosen.texts("series_instance_uid")) == set(again.texts("series_instance_uid"))
    assert one_series_each(replace(chosen, notes=())).notes == ()
