"""The operators of the graph: each receives a job, calls one function, emits the job.

Besides `app/application.py`, which says why the SDK's classes come from `holoscan`, the only file that imports them.
A job that has ended travels on untouched, so that every series met arrives at the writer and its outcome is counted
there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from holoscan.conditions import BooleanCondition
from holoscan.core import ExecutionContext, Fragment, InputContext, Operator, OperatorSpec, OutputContext

from operators.job import Job
from operators.pipeline import OnOutcome, Pipeline
from operators.types import Series

JOB = "job"


class SelectSeriesOperator(Operator):  # type: ignore[misc]
    """Source: emits one selected series per tick, and stops after the last.

    The series of a study are compared with each other, so that studies are read and selected as a whole before they
    are emitted one series at a time.
    """

    def __init__(self, fragment: Fragment, jobs: Iterator[Job[Series]], name: str = "select_series") -> None:
        self._jobs = jobs
        self._more = BooleanCondition(fragment, name="more_series")
        super().__init__(fragment, self._more, name=name)

    def setup(self, spec: OperatorSpec) -> None:
        """One output: a job."""
        spec.output(JOB)

    def compute(self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext) -> None:
        """Emit the next series, or stop."""
        job = next(self._jobs, None)
        if job is None:
            self._more.disable_tick()
        else:
            op_output.emit(job, JOB)


class StageOperator(Operator):  # type: ignore[misc]
    """One stage of the pipeline: receive a job, run the stage, emit the job."""

    def __init__(self, fragment: Fragment, stage: Callable[[Job[Any]], Job[Any]], name: str) -> None:
        self._stage = stage
        super().__init__(fragment, name=name)

    def setup(self, spec: OperatorSpec) -> None:
        """A job in, a job out."""
        spec.input(JOB)
        spec.output(JOB)

    def compute(self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext) -> None:
        """Run the stage."""
        op_output.emit(self._stage(op_input.receive(JOB)), JOB)


class FeatureWriterOperator(Operator):  # type: ignore[misc]
    """Sink: Encoding → features.json and features.sr.dcm; hands on how each series ended."""

    def __init__(
        self, fragment: Fragment, pipeline: Pipeline, on_outcome: OnOutcome, name: str = "write_features"
    ) -> None:
        self._pipeline, self._on_outcome = pipeline, on_outcome
        super().__init__(fragment, name=name)

    def setup(self, spec: OperatorSpec) -> None:
        """A job in."""
        spec.input(JOB)

    def compute(self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext) -> None:
        """Write, and report how it ended."""
        self._on_outcome(self._pipeline.write(op_input.receive(JOB)).ended("written"))
