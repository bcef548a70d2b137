"""The engine for many machines: Ray Data hands units to actors on a cluster, each with one process as in `local`.

The cluster only carries what a unit is and how its series ended, a few kB each; voxels stay in the process that reads
them. A study that takes too much memory or time, or kills its process, costs itself; an actor or a machine that is lost
costs what it was at, which Ray gives to another one.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from app.cohort.encode_unit import Work
from app.cohort.ended import Ended
from app.cohort.local import Limits, OnEnded, Team
from app.cohort.serve import Stopped
from app.cohort.units import Unit
from operators import __version__
from operators.errors import CtvaeError, RunFailed, StartError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

MOST_UNITS: Final = 16
"""In one task of Ray: few, for they are done again when a machine is lost; not one, for a task costs some ms."""

TASKS_PER_WORKER: Final = 8
"""At least, so that no worker is idle for long at the end."""

ANSWER_S: Final = 10.0
"""For the head of the cluster, to take a connection."""

UNIT, SERIES, STOPPED = "unit", "series", "stopped"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray cluster that is running.

    Attributes:
        address: of its head, `host:port`; `auto` for the one that this machine belongs to.
        workers: actors; None for one per core of the cluster, or one per GPU where the run is for GPUs.
    """

    address: str
    workers: int | None = None


def encode_on_ray(
    units: Iterable[Unit], count: int, work: Work, cluster: Cluster, limits: Limits, on_ended: OnEnded
) -> None:
    """Encode units on a cluster.

    Args:
        units: what is to be done; sent to the object store of this machine, which spills to its disk.
        count: about how many.
        work: what is done to each; every machine sees its folders under the same paths.
        cluster: where.
        limits: of the process of each worker; `workers` does not count.
        on_ended: called once per unit, in the order in which they end.

    Raises:
        StartError: `CLUSTER_UNUSABLE`; and as `Team.encode`.
        RunFailed: `CLUSTER_UNUSABLE`: it was lost; and as `Team.encode`.
    """
    with _connected(cluster.address) as ray:
        on_gpu = " cuda" in work.runtime
        kind = "GPU" if on_gpu else "CPU"
        there = int(ray.cluster_resources().get(kind, 0))
        if not there:
            raise StartError("CLUSTER_UNUSABLE", f"the Ray cluster has no {kind}; expected a machine with one")
        workers = cluster.workers or there
        size = max(1, min(MOST_UNITS, count // (workers * TASKS_PER_WORKER)))
        dataset = ray.data.from_arrow(list(_tables(units, size))).map_batches(
            Stage,
            fn_constructor_args=(__version__, partial(ray.get, ray.put((work, replace(limits, workers=1))))),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
            batch_size=None,
            num_cpus=0 if on_gpu else 1,
            num_gpus=1 if on_gpu else 0,
        )
        for row in dataset.iter_rows():
            if row[STOPPED]:
                raise Stopped(*json.loads(row[STOPPED])).error()
            series = json.loads(row[SERIES])
            on_ended(
                Unit.from_body(row[UNIT]),
                [Ended.from_body(uid, part, bytes.fromhex(body)) for uid, part, body in series],
            )


class Stage:
    """What an actor does: its units in a process of its own, as the local engine does it."""

    def __init__(self, version: str, order: Callable[[], tuple[Work, Limits]]) -> None:
        """Start nothing yet.

        Args:
            version: of the command's ctvae.
            order: returns what to do; not yet the thing itself, for another ctvae may fail to unpack it, and must get
                as far as saying that it is another one.
        """
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray's; the process is to be as it is on one machine, to the last bit
        self._version, self._order = version, order
        self._begun: tuple[Team, Work] | None = None

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, list[Any]]:
        """Return a row per unit: the unit, its series, or the error that stops the run."""
        rows: list[tuple[bytes, str, str]] = []

        def enter(unit: Unit, ended: Iterable[Ended]) -> None:
            series = [[one.outcome.series_instance_uid, one.outcome.part, one.body().hex()] for one in ended]
            rows.append((unit.body(), json.dumps(series), ""))

        try:
            team, work = self._ready()
            team.encode((Unit.from_body(body) for body in batch[UNIT]), work, enter)
        except CtvaeError as error:
            rows.append((b"", "", json.dumps(astuple(Stopped.by(error)))))
        return dict(zip((UNIT, SERIES, STOPPED), map(list, zip(*rows, strict=True)), strict=True))

    def end(self) -> None:
        """End its process."""
        if self._begun:
            self._begun[0].end()

    def _ready(self) -> tuple[Team, Work]:
        if self._begun is None:
            if self._version != __version__:
                found = f"{socket.gethostname()} has ctvae {__version__}, the command {self._version}"
                raise StartError("CLUSTER_UNUSABLE", f"{found}; install the same version on every machine")
            work, limits = self._order()
            self._begun = Team(limits), work
        _check_folders(self._begun[1])
        return self._begun


def _check_folders(work: Work) -> None:
    """Check that this machine sees the folders.

    Raises:
        StartError: `CLUSTER_UNUSABLE`.
    """
    needed = {"DATA": work.root, **({"OUTPUT": work.results.parent} if work.files != "none" else {})}
    missing = [what for what, folder in needed.items() if not folder.is_dir()]
    if missing:
        found = f"{socket.gethostname()} does not see {' and '.join(missing)}"
        raise StartError("CLUSTER_UNUSABLE", f"{found}; mount them under the same path on every machine")


def _tables(units: Iterable[Unit], size: int) -> Iterator[pa.Table]:
    import pyarrow as pa

    bodies = (unit.body() for unit in units)
    while some := list(islice(bodies, size)):
        yield pa.table({UNIT: pa.array(some, pa.binary())})


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Connect to the cluster for as long as the block runs; the cluster itself stays.

    Raises:
        StartError: `CLUSTER_UNUSABLE`: it cannot be reached.
        RunFailed: `CLUSTER_UNUSABLE`: Ray gave up.
    """
    _check_answers(address)
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    import ray.data
    from ray.exceptions import RayError

    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, OSError, RayError) as error:
        raise _no_cluster(address, error) from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    try:
        yield ray
    except RayError as error:
        text = (
            f"the Ray cluster gave up ({type(error).__name__}); see its logs, and that each machine has the same ctvae"
        )
        raise RunFailed("CLUSTER_UNUSABLE", text) from error
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Check that somebody listens at an address `host:port`, for Ray itself tries for many minutes.

    Raises:
        StartError: `CLUSTER_UNUSABLE`.
    """
    host, _, port = address.rpartition(":")
    if "//" in address or not (host and port.isdigit()):
        return  # `auto`, or another form that Ray knows
    try:
        socket.create_connection((host, int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> StartError:
    text = f"no Ray cluster answers at {address} ({type(error).__name__}); start one, or check --ray-address"
    return StartError("CLUSTER_UNUSABLE", text)
