"""A series goes from stage to stage, or ends with a reason; never with an exception."""

from __future__ import annotations

import logging

import pytest
from pydicom.dataset import Dataset

from operators.errors import SeriesFailed, SeriesRejected, SeriesSkipped, StartError
from operators.instance import Instance
from operators.job import Job, log_outcome
from operators.types import Finding, Outcome, Series


@pytest.fixture
def series(tmp_path):
    finding = Finding("UID_DERIVED", "SeriesInstanceUID was empty")
    return Series("1.2.3", "1.2", "folder", (Instance(tmp_path / "a", Dataset()),), findings=(finding,))


def raising(error):
    def stage(_):
        raise error

    return stage


def test_a_stage_makes_the_next_state(series):
    job = Job(series, series).then("count", lambda made: len(made.instances))

    assert job.state == 1
    assert list(job.seconds) == ["count"]


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (SeriesRejected("MISSING_SLICE", "a gap"), "rejected", "MISSING_SLICE"),
        (SeriesSkipped("LOCALIZER", "a scout"), "skipped", "LOCALIZER"),
        (SeriesFailed("OUTPUT_UNWRITABLE", "full"), "failed", "OUTPUT_UNWRITABLE"),
        (MemoryError(), "failed", "OUT_OF_MEMORY"),
        (OSError(5, "Input/output error", "/data/DOE^JANE/1.dcm"), "failed", "INPUT_OUTPUT_ERROR"),
        (ValueError("DOE^JANE"), "failed", "INTERNAL_ERROR"),
    ],
)
def test_an_error_is_the_outcome_of_its_series(series, error, status, reason):
    outcome = Job(series, series).then("stage", raising(error)).ended("written")

    assert (outcome.status, outcome.reason) == (status, reason)
    assert outcome.series_instance_uid == "1.2.3" and outcome.findings == series.findings


@pytest.mark.parametrize("error", [OSError(5, "Input/output error", "DOE^JANE"), ValueError("DOE^JANE")])
def test_the_text_of_a_foreign_error_is_not_shown(series, error):
    outcome = Job(series, series).then("stage", raising(error)).ended("written")

    assert outcome.message and "DOE" not in outcome.message


def test_what_has_ended_runs_no_further_stage(series):
    reached = []
    job = Job(series, series).then("gate", raising(SeriesRejected("X", "y"))).then("next", reached.append)

    assert not reached and job.ended("written").status == "rejected"


def test_what_is_wrong_with_the_run_is_not_a_series_fault(series):
    with pytest.raises(StartError):
        Job(series, series).then("stage", raising(StartError("BUNDLE_INVALID", "broken")))


def test_a_rejection_is_one_warning_and_a_skip_is_information(caplog):
    with caplog.at_level(logging.INFO, "operators.job"):
        log_outcome(Outcome("1.2", 3, ".", "rejected", "MISSING_SLICE", "a gap"))
        log_outcome(Outcome("1.4", None, ".", "skipped", "LOCALIZER", "a scout"))

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert caplog.messages[0] == "rejected 1.2 part 3 MISSING_SLICE: a gap"
