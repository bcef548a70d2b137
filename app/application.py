"""The graph: select series → build volume → preprocess → VAE encoder → feature writer.

`monai.deploy.core` only re-exports `Application`, `Operator` and the rest from `holoscan.core` (a test checks that they
are the same objects), and takes seconds to import MONAI and torch, which are not needed here: so they are imported from
there.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator

HOLOSCAN_STACK_BYTES = 32 << 20


def _raise_stack_limit() -> None:
    """Raise the soft stack limit: Holoscan wants 32 MiB and warns at import and at each run where it is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    enough_allowed = hard == resource.RLIM_INFINITY or hard >= HOLOSCAN_STACK_BYTES
    if soft != resource.RLIM_INFINITY and soft < HOLOSCAN_STACK_BYTES and enough_allowed:
        resource.setrlimit(resource.RLIMIT_STACK, (HOLOSCAN_STACK_BYTES, hard))


_raise_stack_limit()

from holoscan.core import Application  # noqa: E402  after raising the limit
from holoscan.schedulers import EventBasedScheduler  # noqa: E402

from operators.job import Job  # noqa: E402
from operators.nodes import FeatureWriterOperator, SelectSeriesOperator, StageOperator  # noqa: E402
from operators.pipeline import OnOutcome, Pipeline  # noqa: E402
from operators.types import Series  # noqa: E402

# Reading, encoding and writing overlap; more threads than slow stages would only wait.
GRAPH_THREADS = 3


class CtVaeApplication(Application):  # type: ignore[misc]
    """CT in, VAE features out; the series of a folder stream through one after the other.

    Attributes:
        jobs: the series of the input, see `app.read_input.open_series`; read when the graph runs.
        pipeline: the stages that each series passes through.
        on_outcome: called for each series when it has ended.
    """

    def __init__(self, jobs: Iterator[Job[Series]], pipeline: Pipeline, on_outcome: OnOutcome) -> None:
        self.jobs, self.pipeline, self.on_outcome = jobs, pipeline, on_outcome
        super().__init__(["ctvae"])  # argv is read by app.__main__; holoscan would parse it a second time
        # Not the MultiThreadScheduler: on a busy machine it mistook a running tick for a deadlock and ended the graph
        # silently, in 11 of 60 runs; this one in none of 60. The ledger finds what a scheduler loses.
        self.scheduler(EventBasedScheduler(self, worker_thread_number=GRAPH_THREADS, name="scheduler"))

    def compose(self) -> None:
        """Build the graph, from top to bottom."""
        select = SelectSeriesOperator(self, self.jobs)
        build = StageOperator(self, self.pipeline.build, name="build_volume")
        prepare = StageOperator(self, self.pipeline.preprocess, name="preprocess")
        encode = StageOperator(self, self.pipeline.encode, name="vae_encoder")
        write = FeatureWriterOperator(self, self.pipeline, self.on_outcome)
        for before, after in ((select, build), (build, prepare), (prepare, encode), (encode, write)):
            self.add_flow(before, after)
