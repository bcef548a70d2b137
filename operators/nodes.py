"""The operators of the graph: each receives a job, calls one function and emits the job.

Only this file and `app/application.py` import the SDK's classes; the latter says why they come from `holoscan`. A job
that has ended travels on unchanged, so that every series reaches the writer, which counts its outcome.
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

    Selection compares the series of a study, so each study is read and selected as a whole before its series are
    emitted one by one.
    """

    def __init__(self, fragment: Fragment, jobs: Iterator[Job[Series]], name: str = "select_series") -> None:
        self._jobs = jobs
        self._more = BooleanCondition(fragment, name="more_series")
        super().__init__(fragment, self._more, name=name)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare one output: a job."""
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
        """Declare one input and one output: a job each."""
        spec.input(JOB)
        spec.output(JOB)

    def compute(self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext) -> None:
        """Run the stage."""
        op_output.emit(self._stage(op_input.receive(JOB)), JOB)


class FeatureWriterOperator(Operator):  # type: ignore[misc]
    """Sink: Encoding → features.json and features.sr.dcm; reports how each series ended."""

    def __init__(
        self, fragment: Fragment, pipeline: Pipeline, on_outcome: OnOutcome, name: str = "write_features"
    ) -> None:
        self._pipeline, self._on_outcome = pipeline, on_outcome
        super().__init__(fragment, name=name)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare one input: a job."""
        spec.input(JOB)

    def compute(self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext) -> None:
        """Write the files, and report how the series ended."""
        self._on_outcome(self._pipeline.write(op_input.receive(JOB)).ended("written"))
