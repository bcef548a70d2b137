"""`ctvae table`: results of one model become one table, the same numbers from JSON and from SR, or one clear line."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from app import on_disk
from app.cli import main
from app.table import write
from app.table.make import TableSettings, make_table
from operators.record import FeatureRecord, Subject
from operators.results.write_json import features_json
from operators.sr.predecessor import read_predecessor
from operators.sr.write import sr_bytes
from tests.support.sr_records import ct_header, made_record, made_reliability


@pytest.fixture(scope="module")
def record() -> FeatureRecord:
    return replace(made_record(quantities={"mean_hu": -35.5}), subject=Subject("k" * 64, "F", 50.0))


def put(folder: Path, record: FeatureRecord, **changes) -> Path:
    """One results folder; `changes` replace fields of the document, a dot between a field and one of its own."""
    document = json.loads(features_json(record))
    for name, value in changes.items():
        *outer, last = name.split("__")
        place = document
        for key in outer:
            place = place[key]
        place[last] = value
    folder.mkdir(parents=True)
    (folder / "features.json").write_text(json.dumps(document))
    return folder


def table(*arguments: object) -> int:
    return main(["table", *map(str, arguments)])


def test_a_row_has_the_numbers_of_features_json_bit_for_bit(record, tmp_path):
    put(tmp_path / "results" / "a", record)
    assert table(tmp_path / "results", "-o", tmp_path / "t.parquet") == 0
    (row,) = pd.read_parquet(tmp_path / "t.parquet").to_dict("records")
    assert row["series_instance_uid"] == record.series_instance_uid
    assert (row["sex"], row["age_years"], row["model_digest"]) == ("F", 50.0, record.model.weights_sha256)
    for tap in ("mu", "sigma"):
        values = [row[f"{tap}_{k:03d}"] for k in range(record.taps[tap].length)]
        assert np.array_equal(np.array(values, np.float32), record.taps[tap].values)
    assert row["mean_hu"] == np.float32(record.quantities["mean_hu"])


def test_an_sr_and_its_json_give_the_same_numbers(record, tmp_path):
    put(tmp_path / "json" / "a", record)
    (tmp_path / "sr").mkdir()
    (tmp_path / "sr" / "IM0001").write_bytes(sr_bytes(record))
    tables = []
    for kind in ("json", "sr"):
        assert table(tmp_path / kind, "-o", tmp_path / f"{kind}.parquet") == 0
        tables.append(pd.read_parquet(tmp_path / f"{kind}.parquet"))
    both = [name for name in tables[0] if name.startswith(("mu_", "sigma_")) or name.endswith(("_uid", "digest"))]
    pd.testing.assert_frame_equal(tables[0][both], tables[1][both], check_exact=True)
    assert len(both) > 8


@pytest.mark.parametrize("kind", ["json", "sr"])
def test_the_table_has_the_verdict_of_json_and_of_sr(record, tmp_path, kind):
    assessed = replace(record, reliability=made_reliability("out_of_distribution"))
    if kind == "json":
        put(tmp_path / "results", assessed)
    else:
        (tmp_path / "results").mkdir()
        (tmp_path / "results" / "features.sr.dcm").write_bytes(sr_bytes(assessed))
    assert table(tmp_path / "results", "-o", tmp_path / "t.parquet") == 0
    assert list(pd.read_parquet(tmp_path / "t.parquet")["verdict"]) == ["out_of_distribution"]


def test_an_sr_beside_its_json_is_the_same_result(record, tmp_path, capsys):
    put(tmp_path / "r" / "a", record)
    (tmp_path / "r" / "a" / "features.sr.dcm").write_bytes(sr_bytes(record))
    assert table(tmp_path / "r", "-o", tmp_path / "t.csv") == 0
    assert capsys.readouterr().out.startswith("1 rows")


def test_csv_reads_back_to_the_same_float32(record, tmp_path):
    put(tmp_path / "r" / "a", record)
    assert table(tmp_path / "r", "-o", tmp_path / "t.csv") == 0
    with (tmp_path / "t.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert [np.float32(row[f"mu_{k:03d}"]) for k in range(3)] == record.taps["mu"].values[:3].tolist()
    assert row["part"] == ""


def test_the_long_form_has_a_row_for_each_tap_and_dimension(record, tmp_path):
    put(tmp_path / "r" / "a", record)
    assert table(tmp_path / "r", "-o", tmp_path / "t.parquet", "--long") == 0
    rows = pd.read_parquet(tmp_path / "t.parquet")
    assert len(rows) == 2 * record.taps["mu"].length
    chosen = rows[(rows.tap == "sigma") & (rows.dimension == 1)]
    assert chosen.value.item() == record.taps["sigma"].values[1]


def test_each_column_says_what_it_is(record, tmp_path):
    put(tmp_path / "r" / "a", record)
    assert table(tmp_path / "r", "-o", tmp_path / "t.parquet") == 0
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert all(field.metadata[b"meaning"] for field in schema)
    assert schema.metadata[b"model_digest"].decode() == record.model.weights_sha256


def test_results_of_two_models_are_not_mixed_unless_asked_for(record, tmp_path, capsys):
    put(tmp_path / "r" / "a", record)
    put(tmp_path / "r" / "b", record, series__series_instance_uid="1.2.9", job_key="k", model__weights_sha256="f" * 64)
    assert table(tmp_path / "r", "-o", tmp_path / "t.parquet") == 3
    assert "MIXED_MODELS" in capsys.readouterr().err
    assert not (tmp_path / "t.parquet").exists()
    assert table(tmp_path / "r", "-o", tmp_path / "t.parquet", "--mixed") == 0
    assert len(pd.read_parquet(tmp_path / "t.parquet")) == 2


def test_one_result_met_twice_is_one_row_and_two_results_of_a_series_are_refused(record, tmp_path, capsys):
    put(tmp_path / "r" / "a", record)
    put(tmp_path / "r" / "b", record)
    assert table(tmp_path / "r", "-o", tmp_path / "t.csv") == 0
    assert "1 rows" in (out := capsys.readouterr().out)
    assert "1 found twice" in out
    put(tmp_path / "r" / "c", record, job_key="another")
    assert table(tmp_path / "r", "-o", tmp_path / "t.csv") == 3
    assert "SEVERAL_RESULTS" in capsys.readouterr().err


def test_a_damaged_result_is_named_and_the_others_are_written(record, tmp_path, capsys):
    put(tmp_path / "r" / "a", record)
    put(tmp_path / "r" / "b", record, taps__mu__values=[None])
    assert table(tmp_path / "r", "-o", tmp_path / "t.csv") == 1
    said = capsys.readouterr()
    assert "b/features.json: BROKEN_RESULT" in said.err
    assert "1 rows" in said.out


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", b"{}", "BROKEN_RESULT"),
        ("a.dcm", b"no DICOM", "NOT_DICOM"),
        ("a.json", b"[" * 100_000, "BROKEN_RESULT"),
    ],
)
def test_a_named_file_that_is_no_result_is_an_error(tmp_path, capsys, name, content, reason):
    (tmp_path / name).write_bytes(content)
    assert table(tmp_path / name, "-o", tmp_path / "t.csv") == 1
    assert reason in capsys.readouterr().err


def test_a_table_of_nothing_is_one_line(tmp_path, capsys):
    (tmp_path / "r").mkdir()
    assert table(tmp_path / "r", "-o", tmp_path / "t.csv") == 3
    assert "NO_RESULTS" in capsys.readouterr().err
    assert table(tmp_path / "missing", "-o", tmp_path / "t.csv") == 3
    assert "NO_RESULTS_THERE" in capsys.readouterr().err
    assert not (tmp_path / "t.csv").exists()


def test_a_name_without_a_known_format_is_refused_before_anything_is_read(tmp_path, capsys):
    assert table(tmp_path, "-o", tmp_path / "t.xlsx") == 3
    assert "BAD_TABLE_NAME" in capsys.readouterr().err


def test_the_path_in_the_input_is_written_only_when_asked_for(record, tmp_path):
    put(tmp_path / "r" / "a", record)
    entry = {"series_instance_uid": record.series_instance_uid, "part": record.identity.part, "folder": "Doe/CT"}
    (tmp_path / "r" / "outcome.json").write_text(json.dumps({"series": [entry]}))
    assert table(tmp_path / "r", "-o", tmp_path / "plain.parquet") == 0
    assert table(tmp_path / "r", "-o", tmp_path / "paths.parquet", "--with-paths") == 0
    assert "source_path" not in pd.read_parquet(tmp_path / "plain.parquet")
    assert pd.read_parquet(tmp_path / "paths.parquet").source_path.tolist() == ["Doe/CT"]


def test_no_identity_of_the_patient_is_in_the_table(tmp_path):
    headers = [ct_header(number) for number in (1, 2, 3)]
    for header in headers:
        header.PatientName, header.PatientID, header.PatientBirthDate = "Zwerg^Nase", "ZW-1", "19700102"
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "a.dcm").write_bytes(sr_bytes(made_record(headers)))
    assert table(tmp_path / "r", "-o", tmp_path / "t.csv", "--with-paths") == 0
    text = (tmp_path / "t.csv").read_text()
    assert not any(value in text for value in ("Zwerg", "Nase", "ZW-1", "19700102"))


def test_a_missing_layer_is_named_with_those_that_are_there(record, tmp_path, capsys):
    put(tmp_path / "r" / "a", record)
    assert table(tmp_path / "r", "-o", tmp_path / "t.csv", "--taps", "dense") == 3
    assert "NO_SUCH_TAP" in capsys.readouterr().err


@pytest.mark.parametrize(("group_bytes", "groups"), [(1, 5), (write.GROUP_BYTES, 1)])
def test_rows_are_written_batch_by_batch_in_row_groups_of_some_size(record, tmp_path, monkeypatch, group_bytes, groups):
    monkeypatch.setattr("app.table.make.BATCH_VALUES", 1)
    monkeypatch.setattr(write, "GROUP_BYTES", group_bytes)
    for k in range(5):
        put(tmp_path / "r" / str(k), record, series__series_instance_uid=f"1.2.{k}", job_key=str(k))
    assert table(tmp_path / "r", "-o", tmp_path / "t.parquet") == 0
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == groups
    assert pd.read_parquet(tmp_path / "t.parquet").series_instance_uid.tolist() == [f"1.2.{k}" for k in range(5)]


def test_a_failure_leaves_the_earlier_table_and_nothing_else(record, tmp_path, monkeypatch):
    put(tmp_path / "r" / "a", record)
    (tmp_path / "t.csv").write_text("earlier")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.CsvTable, "write", full)
    assert table(tmp_path / "r", "-o", tmp_path / "t.csv") == 1
    assert (tmp_path / "t.csv").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r", "t.csv"]


def test_a_full_temporary_folder_is_one_line_and_leaves_no_table(record, tmp_path, monkeypatch, capsys):
    for number in range(40):
        put(tmp_path / "r" / str(number), record, series__series_instance_uid=f"1.2.{number}")
    monkeypatch.setattr(on_disk, "_SETTINGS", (*on_disk._SETTINGS, "page_size = 512", "max_page_count = 3"))
    assert table(tmp_path / "r", "-o", tmp_path / "t.parquet") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "INPUT_OUTPUT_ERROR" in line and "TMPDIR" in line
    assert [file.name for file in tmp_path.iterdir()] == ["r"]


def test_ctrl_c_leaves_the_earlier_table_and_is_one_line(record, tmp_path, monkeypatch, capsys):
    put(tmp_path / "r" / "a", record)
    assert table(tmp_path / "r", "-o", tmp_path / "t.parquet") == 0
    before = (tmp_path / "t.parquet").read_bytes()
    capsys.readouterr()

    def stopped(*_):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(write.ParquetTable, "write", stopped)
    assert table(tmp_path / "r", "-o", tmp_path / "t.parquet") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "INTERRUPTED" in line and "half written" in line
    assert (tmp_path / "t.parquet").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r", "t.parquet"]


def test_a_folder_that_cannot_be_opened_is_named_and_a_pipe_is_not_waited_for(record, tmp_path, monkeypatch, capsys):
    put(tmp_path / "r" / "a", record)
    (tmp_path / "r" / "closed").mkdir()
    os.mkfifo(tmp_path / "r" / "pipe")
    opened = os.scandir

    def scandir(folder):
        if os.fsdecode(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return opened(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert table(tmp_path / "r", "-o", tmp_path / "t.parquet") == 1
    shown = capsys.readouterr()
    assert shown.err == "closed: NOT_OPENED: Permission denied; check permissions\n"
    assert shown.out.startswith("1 rows") and shown.out.endswith(", 1 damaged\n")


def test_progress_counts_the_rows_of_a_parquet_table_not_its_files(record, tmp_path):
    put(tmp_path / "r" / "a", record)
    put(tmp_path / "r" / "b", record, series__series_instance_uid="1.2.3")
    assert table(tmp_path / "r", "-o", tmp_path / "t.parquet") == 0
    rows = pd.read_parquet(tmp_path / "t.parquet").assign(job_key=["j", "k"])
    rows.to_parquet(tmp_path / "cohort.parquet")
    shown: list[tuple[object, ...]] = []
    make_table([tmp_path / "cohort.parquet"], tmp_path / "u.csv", TableSettings(), lambda *what: shown.append(what))
    assert shown == [(2, 0, "looking for results"), (1, 2, "reading results"), (2, 2, "reading results")]


def put_sr(folder: Path, record: FeatureRecord, predecessor: Path | None = None) -> Path:
    """One SR in a folder of its own, which may take the place of another."""
    folder.mkdir(parents=True)
    replaced = None if predecessor is None else read_predecessor(predecessor)
    (folder / "features.sr.dcm").write_bytes(sr_bytes(record, predecessor=replaced))
    return folder / "features.sr.dcm"


@pytest.mark.parametrize("beside_json", [False, True])
def test_an_sr_whose_place_another_took_leaves_the_table(record, tmp_path, capsys, beside_json):
    changed = replace(record, job_key="ab" * 32, quantities={"mean_hu": 7.0})
    first = put_sr(tmp_path / "r" / "b", record)
    put_sr(tmp_path / "r" / "a", changed, first)
    if beside_json:
        for name, one in (("a", changed), ("b", record)):
            (tmp_path / "r" / name / "features.json").write_bytes(features_json(one))
    assert table(tmp_path / "r", "-o", tmp_path / "t.parquet") == 0
    assert pd.read_parquet(tmp_path / "t.parquet").mean_hu.tolist() == [7.0]
    assert "1 replaced by a later SR" in capsys.readouterr().out


def test_a_missing_pyarrow_shows_before_anything_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert table(tmp_path / "missing", "-o", tmp_path / "t.parquet") == 3
    assert capsys.readouterr().err.endswith("ctvae[table]\n")


def test_a_server_that_is_not_there_is_one_line(tmp_path, capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert table(f"http://user:secret@127.0.0.1:{unused.getsockname()[1]}/dicom-web", "-o", tmp_path / "t.csv") == 3
    said = capsys.readouterr().err
    assert "SERVER_FAILED: 127.0.0.1 gave no DICOMweb answer" in said
    assert said.count("\n") == 1 and "secret" not in said
