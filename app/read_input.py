"""From the input to its series, each as a job: unpack, read, split and select, in the same way for every command.

Encoding (in the graph and in the plain loop), `inspect`, `export` and training all begin here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from app.settings import Settings
from operators.input.archives import Archive, unpacked
from operators.job import Job
from operators.read_study import Inventory, read_studies
from operators.select_series import Selection, select
from operators.types import Series

OnFile = Callable[[int, int], None]
OnInventory = Callable[[Inventory], None]


@contextmanager
def open_series(
    source: Path, settings: Settings, on_inventory: OnInventory, on_file: OnFile | None = None
) -> Iterator[Iterator[Job[Series]]]:
    """Open the input; its archives stay unpacked until the block ends, however it ends.

    Args:
        source: a folder, a ZIP archive or a file in a research format.
        settings: which CT series of a study are selected.
        on_inventory: called once, after all headers are read and before the first job: a ledger records the files that
            cannot be read.
        on_file: called with (files done, files in all) while headers are read.

    Yields:
        One job per series or part, selected or ended with a reason, study by study. Headers are read when the first job
        is requested.
    """
    with unpacked(source) as archives:
        yield _jobs(source, archives, settings.selection, on_inventory, on_file)


def _jobs(
    source: Path,
    archives: Sequence[Archive],
    selection: Selection,
    on_inventory: OnInventory,
    on_file: OnFile | None,
) -> Iterator[Job[Series]]:
    inventory = read_studies(source, on_file, archives)
    on_inventory(inventory)
    for study in inventory.studies:
        yield from select(study, selection)
