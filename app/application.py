"""The graph: read study → select series → build volume → preprocess → VAE encoder → feature writer.

`monai.deploy.core` only passes on `Application`, `Operator` and the rest from `holoscan.core` (a test holds them to be
the same objects), and takes seconds to import MONAI and torch, of which nothing runs here: they are taken from there.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from pathlib import Path

HOLOSCAN_STACK_BYTES = 32 << 20


def _raise_stack_limit() -> None:
    """Holoscan wants 32 MB of stack and warns at import and at each run where the soft limit is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    enough_allowed = hard == resource.RLIM_INFINITY or hard >= HOLOSCAN_STACK_BYTES
    if soft != resource.RLIM_INFINITY and soft < HOLOSCAN_STACK_BYTES and enough_allowed:
        resource.setrlimit(resource.RLIMIT_STACK, (HOLOSCAN_STACK_BYTES, hard))


_raise_stack_limit()

from holoscan.core import Application  # noqa: E402  the limit has to be raised before
from holoscan.schedulers import EventBasedScheduler  # noqa: E402

from operators.input.archives import Archive  # noqa: E402
from operators.nodes import (  # noqa: E402
    BuildVolumeOperator,
    FeatureWriterOperator,
    PreprocessOperator,
    ReadStudyOperator,
    SelectSeriesOperator,
    VaeEncoderOperator,
)
from operators.pipeline import OnOutcome, Recipe  # noqa: E402
from operators.read_study import Reading  # noqa: E402

# Reading, encoding and writing overlap; more threads than stages that take long would only wait.
GRAPH_THREADS = 3


class CtVaeApplication(Application):  # type: ignore[misc]
    """A folder of CT in, VAE features out; one series after the other streams through.

    Attributes:
        folder: input.
        recipe: what is done to each series.
        on_reading: called once, when all headers are read.
        on_outcome: called for each series, when it has ended.
        on_file: called with (files done, files in all) while headers are read.
        archives: of the input, unpacked for as long as it runs.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        on_reading: Callable[[Reading], None],
        on_outcome: OnOutcome,
        on_file: Callable[[int, int], None] | None = None,
        archives: Sequence[Archive] = (),
    ) -> None:
        self.folder, self.archives, self.recipe = folder, archives, recipe
        self.on_reading, self.on_outcome, self.on_file = on_reading, on_outcome, on_file
        super().__init__(["ctvae"])  # argv is read by app.__main__; holoscan would parse it a second time
        # Not the MultiThreadScheduler: on a busy machine it took a tick in progress for a deadlock and ended the graph
        # in silence, in 11 of 60 runs; this one in none of 60. The ledger finds what a scheduler loses.
        self.scheduler(EventBasedScheduler(self, worker_thread_number=GRAPH_THREADS, name="scheduler"))

    def compose(self) -> None:
        """The whole graph, from top to bottom."""
        read = ReadStudyOperator(self, self.folder, self.recipe, self.on_reading, self.on_file, self.archives)
        select = SelectSeriesOperator(self, self.recipe, name="select_series")
        build = BuildVolumeOperator(self, self.recipe, name="build_volume")
        prepare = PreprocessOperator(self, self.recipe, name="preprocess")
        encode = VaeEncoderOperator(self, self.recipe, name="vae_encoder")
        write = FeatureWriterOperator(self, self.recipe, self.on_outcome)
        for before, after in ((read, select), (select, build), (build, prepare), (prepare, encode), (encode, write)):
            self.add_flow(before, after)
