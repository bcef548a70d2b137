"""The record of a training is read from JSON, checked, and written so that it reads back the same."""

from __future__ import annotations

import json
from typing import Literal

import pytest

from models.from_json import from_json
from models.training_record import Case, Figures, Imported, Parent, Report, TrainingRecord, read_record

WHOLE = TrainingRecord(
    command="ctvae train DATA -o a",
    init=Parent("b", "0.1.0", "0" * 64),
    learned_before=(Case("p0", "s0", "train"),),
    data=(Case("p1", "s1", "train", "CC0", 3), Case("p2", "s2", "calibration"), Case("p3", "s3", "test")),
    settings={"batch": 8, "feature_bins": [0.0, 1.0]},
    steps=4,
    elapsed_s=1.5,
    ended="early",
    history=(Report(4, 1.0, 1.5, 0.1, 0.2, 3.0, 4),),
    figures=Figures(9, 100.0, 200.0, 2, (1.0, 0.5), (1.0, 0.5)),
    warnings=("one",),
)


def test_what_is_written_reads_back_the_same():
    assert read_record(json.loads(json.dumps(WHOLE.as_json()))) == WHOLE
    assert TrainingRecord().as_json() == {}


def test_whom_it_learned_from_are_train_and_calibration_and_those_of_its_parents():
    assert [case.patient for case in WHOLE.learned] == ["p0", "p1", "p2"]


@pytest.mark.parametrize(
    "former", [{"imported": {"from": "keras", "sha256": "ab"}}, {"imported_from": {"format": "keras", "sha256": "ab"}}]
)
def test_records_of_an_earlier_ctvae_are_read(former):
    assert read_record(former | {"something": "else"}).imported == Imported("keras", "ab")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"figures": {"windows": 1, "mae_hu": 1, "mae_body_hu": 1, "active": 3, "kl": [1]}}, "3 of 1 units"),
        ({"ended": "late"}, "ended is 'late'; expected Literal"),
        ({"elapsed_s": -1}, "expected no negative number"),
        ({"data": {}}, "data is {}; expected tuple"),
        ({"labels": {"age": 1.5}}, r"labels.age is 1.5; expected int"),
        ({"init": 3}, "init is 3; expected an object"),
        ({"imported": {"from": "keras"}}, "imported.sha256 is None; expected str"),
    ],
)
def test_a_record_that_cannot_be_is_one_line_with_its_path(wrong, says):
    with pytest.raises(ValueError, match=says) as caught:
        read_record(wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "value", "made"),
    [
        (float, 1, 1.0),
        (float | Literal["learned"], "learned", "learned"),
        (float | None, None, None),
        (tuple[float, float], [1, 2.5], (1.0, 2.5)),
        (object, [{"a": 1}], [{"a": 1}]),
    ],
)
def test_json_is_taken_for_what_the_type_says(kind, value, made):
    assert from_json(kind, value) == made


WRONG = [(int, True), (int, 1.0), (float, True), (tuple[int, int], [1]), (str, None)]


@pytest.mark.parametrize(("kind", "value"), WRONG)
def test_json_of_another_type_is_an_error(kind, value):
    with pytest.raises(ValueError, match="expected"):
        from_json(kind, value, "it")
