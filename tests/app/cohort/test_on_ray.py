"""What an actor on a Ray cluster does; `benchmarks/cohort_on_ray.py` checks the same on a real cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.cohort.encode_unit import Work
from app.cohort.ended import Ended
from app.cohort.index import bring_up_to_date
from app.cohort.local import Limits
from app.cohort.on_ray import SERIES, STOPPED, UNIT, Cluster, Stage, encode_on_ray
from app.cohort.partition import config_digest
from app.cohort.source import open_source
from app.cohort.units import Unit
from app.open_pipeline import open_pipeline
from operators import __version__
from operators.errors import StartError
from tests.support.cohort_runs import SETTINGS
from tests.support.cohorts import write_cohort


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"), 2)


@pytest.fixture(scope="module")
def units(data, tmp_path_factory) -> list[Unit]:
    source = open_source(data, tmp_path_factory.mktemp("out"))
    return list(bring_up_to_date(source, tmp_path_factory.mktemp("index")).units())


@pytest.fixture(scope="module")
def work(data, tmp_path_factory) -> Work:
    pipeline = open_pipeline(SETTINGS, None, None)
    about = pipeline.bundle.weights_sha256, config_digest(pipeline), pipeline.encoder.runtime
    return Work(data, SETTINGS, None, tmp_path_factory.mktemp("partition") / "results", "none", *about)


def batch(units: list[Unit]) -> dict[str, np.ndarray]:
    return {UNIT: np.array([unit.body() for unit in units], object)}


def order(work: Work) -> Callable[[], tuple[Work, Limits]]:
    return lambda: (work, Limits(1))


def test_an_actor_answers_each_unit_with_its_series(units, work):
    stage = Stage(__version__, order(work))
    try:
        found = stage(batch(units))
    finally:
        stage.end()
    assert sorted(Unit.from_body(body).name for body in found[UNIT]) == [unit.name for unit in units]
    ended = [
        Ended.from_body(uid, part, bytes.fromhex(body))
        for text in found[SERIES]
        for uid, part, body in json.loads(text)
    ]
    assert [one.outcome.status for one in ended] == ["written", "written"] and set(found[STOPPED]) == {""}
    assert all(one.row and one.job_key for one in ended)


def test_a_machine_that_lacks_something_stops_the_run_and_says_what(units, work, tmp_path):
    lacking = {
        "OTHER 9.9; install the same": Stage("OTHER 9.9", lambda: pytest.fail("another ctvae cannot read this")),
        "does not see DATA; mount": Stage(__version__, order(replace(work, root=tmp_path / "gone"))),
        "does not see OUTPUT; mount": Stage(
            __version__, order(replace(work, files="json", results=tmp_path / "gone" / "results"))
        ),
    }
    for said, stage in lacking.items():
        ((at_start, reason, message),) = map(json.loads, stage(batch(units))[STOPPED])
        assert at_start and reason == "CLUSTER_UNUSABLE" and said in message


def test_a_cluster_that_does_not_answer_is_one_line_at_once(units, work):
    for address in ("127.0.0.1:1", "127.0.0.1:99999"):
        with pytest.raises(StartError, match=f"CLUSTER_UNUSABLE: no Ray cluster answers at {address} .*start one"):
            encode_on_ray(units, len(units), work, Cluster(address), Limits(1), lambda unit, ended: None)


def test_a_unit_is_the_same_after_its_way_to_another_machine(units):
    assert [Unit.from_body(unit.body()) for unit in units] == units
