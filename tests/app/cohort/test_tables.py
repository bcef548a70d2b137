"""The tables of a partition: written in one pass, in parts, all of them or none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from app.cohort import tables
from app.cohort.ended import Ended, EndedStore
from app.cohort.row import Row
from app.cohort.units import Unit
from app.table.columns import Layout
from app.table.result import result_of_document
from operators.errors import SeriesFailed
from operators.results.write_json import features_document
from operators.types import Outcome
from tests.support.sr_records import made_record

RESULT = result_of_document(features_document(made_record()))
LENGTHS = {tap: len(values) for tap, values in RESULT.taps.items()}


def written(uid: str, *places: str) -> Ended:
    row = Layout(LENGTHS, with_paths=False).wide(RESULT, None) | {"series_instance_uid": uid}
    return Ended(Outcome(uid, None, places[0], "written"), places, "1.2", "k" * 64, row, LENGTHS)


def rejected(uid: str, *places: str) -> Ended:
    outcome = Outcome(uid, None, places[0], "rejected", "TOO_FEW_SLICES", "2 slices; expected at least 3")
    return Ended(outcome, places, "1.2")


def uids(file: Path) -> list[str]:
    return pq.read_table(file).column("series_instance_uid").to_pylist()


def test_series_are_read_once_and_features_lie_in_parts_of_a_fixed_size(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "PART_ROWS", 2)
    monkeypatch.setattr(tables, "BATCH_ROWS", 1)
    ended = iter([written("1.1", "a"), rejected("1.2", "b"), written("1.3", "c", "d"), written("1.4", "e")])
    tables.write_tables(ended, tmp_path, "m" * 64, lambda: {"report.txt": b"all"})
    assert [uids(file) for file in sorted((tmp_path / "tables/features").iterdir())] == [["1.1", "1.3"], ["1.4"]]
    assert uids(tmp_path / "tables/failures.parquet") == ["1.2"]
    assert pq.read_table(tmp_path / "tables/places.parquet").column("place").to_pylist() == ["a", "b", "c", "d", "e"]
    assert (tmp_path / "tables/report.txt").read_bytes() == b"all"


def test_a_failure_in_the_middle_leaves_the_earlier_tables(tmp_path, monkeypatch):
    def failing() -> Iterator[Ended]:
        yield written("1.9", "z")
        raise OSError(28, "No space left on device")

    tables.write_tables([written("1.1", "a")], tmp_path, "m" * 64, dict)
    with pytest.raises(SeriesFailed, match=r"OUTPUT_UNWRITABLE: .*No space"):
        tables.write_tables(failing(), tmp_path, "m" * 64, dict)
    assert uids(tmp_path / "tables/features/part-00000.parquet") == ["1.1"]
    tables.write_tables([written("1.2", "a")], tmp_path, "m" * 64, dict)
    assert uids(tmp_path / "tables/features/part-00000.parquet") == ["1.2"]
    assert [file.name for file in tmp_path.iterdir()] == ["tables"]


def test_a_series_of_two_units_comes_once_with_all_its_places(tmp_path):
    store = EndedStore(tmp_path / "ended.sqlite")
    for name, ended in (("b", [rejected("1.2", "later"), written("1.1", "x")]), ("a", [written("1.2", "first")])):
        store.enter(Unit(name, (Row(b"", b"x", 0, 0, "dicom", name, "1.2", "", ""),), {}, {}), ended)
    found = list(store.all())
    assert [(one.outcome.series_instance_uid, one.outcome.status) for one in found] == [
        ("1.1", "written"),
        ("1.2", "written"),
    ]
    assert found[1].places == ("first", "later")
    store.close()
