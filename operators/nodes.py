"""The operators of the graph: each receives a job, calls one function, emits the job.

Besides `app/application.py`, which says why the SDK's classes come from `holoscan`, the only file that imports them.
A job that has ended travels on untouched, so that every series met arrives at the writer and its outcome is counted
there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from holoscan.conditions import BooleanCondition
from holoscan.core import ExecutionContext, Fragment, InputContext, Operator, OperatorSpec, OutputContext

from operators.input.archives import Archive
from operators.job import Job
from operators.pipeline import OnOutcome, Recipe
from operators.read_study import Reading, read_studies

JOB = "job"


class ReadStudyOperator(Operator):  # type: ignore[misc]
    """Source: reads the headers below a folder once, then emits one series a tick, and stops after the last."""

    def __init__(
        self,
        fragment: Fragment,
        folder: Path,
        recipe: Recipe,
        on_reading: Callable[[Reading], None],
        on_file: Callable[[int, int], None] | None = None,
        archives: Sequence[Archive] = (),
        name: str = "read_study",
    ) -> None:
        self._folder, self._archives, self._recipe = folder, archives, recipe
        self._on_reading, self._on_file = on_reading, on_file
        self._jobs: Iterator[Job[Any]] | None = None
        self._more = BooleanCondition(fragment, name="more_series")
        super().__init__(fragment, self._more, name=name)

    def setup(self, spec: OperatorSpec) -> None:
        """One output: a job."""
        spec.output(JOB)

    def compute(self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext) -> None:
        """Emit the next series, or stop."""
        if self._jobs is None:
            reading = read_studies(self._folder, self._on_file, self._archives)
            self._on_reading(reading)
            self._jobs = self._recipe.jobs(reading.studies)
        job = next(self._jobs, None)
        if job is None:
            self._more.disable_tick()
        else:
            op_output.emit(job, JOB)


class StageOperator(Operator):  # type: ignore[misc]
    """One stage of the recipe: receive a job, run the stage, emit the job."""

    def __init__(self, fragment: Fragment, recipe: Recipe, name: str) -> None:
        self.recipe = recipe
        super().__init__(fragment, name=name)

    def setup(self, spec: OperatorSpec) -> None:
        """A job in, a job out."""
        spec.input(JOB)
        spec.output(JOB)

    def compute(self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext) -> None:
        """Run the stage."""
        op_output.emit(self.stage(op_input.receive(JOB)), JOB)

    def stage(self, job: Job[Any]) -> Job[Any]:
        """What this operator does to a job."""
        raise NotImplementedError


class SelectSeriesOperator(StageOperator):
    """Series → itself, or skipped."""

    def stage(self, job: Job[Any]) -> Job[Any]:
        """See `operators.select_series` and `operators.series.ct_images`."""
        return self.recipe.select(job)


class BuildVolumeOperator(StageOperator):
    """Series → Volume, or rejected."""

    def stage(self, job: Job[Any]) -> Job[Any]:
        """See `operators.build_volume`."""
        return self.recipe.build(job)


class PreprocessOperator(StageOperator):
    """Volume → Windows."""

    def stage(self, job: Job[Any]) -> Job[Any]:
        """See `operators.preprocess`."""
        return self.recipe.preprocess(job)


class VaeEncoderOperator(StageOperator):
    """Windows → Encoding."""

    def stage(self, job: Job[Any]) -> Job[Any]:
        """See `operators.encode`."""
        return self.recipe.encode(job)


class FeatureWriterOperator(Operator):  # type: ignore[misc]
    """Sink: Encoding → features.json and features.sr.dcm; hands on how each series ended."""

    def __init__(self, fragment: Fragment, recipe: Recipe, on_outcome: OnOutcome, name: str = "write_features") -> None:
        self._recipe, self._on_outcome = recipe, on_outcome
        super().__init__(fragment, name=name)

    def setup(self, spec: OperatorSpec) -> None:
        """A job in."""
        spec.input(JOB)

    def compute(self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext) -> None:
        """Write, and say how it ended."""
        self._on_outcome(self._recipe.write(op_input.receive(JOB)).ended("written"))
