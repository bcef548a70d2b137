"""Simulate the scheduler of `ctvae cohort` for 1 to 64 workers, from stage times that `benchmarks/cohort.py` measured.

    python benchmarks/cohort_simulation.py FILE [--studies 1000000] [--storage-mb-s 1250] [--cores 16]

FILE is from `benchmarks/cohort.py --only parts … --json FILE`. A worker asks the parent for a study, reads it from the
storage that all share, computes for as long as one of the measured studies took, and hands the result to the parent,
which enters it before it gives the next one. A worker has a core of its own. Before, the workers read every header
for the index, as fast as the parent lists the files and sorts the rows; after, the parent writes the tables. What is
printed is a simulation, not a measurement.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import statistics
from pathlib import Path

WORKERS = (1, 2, 4, 8, 16, 32, 64)
SIMULATED = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--studies", type=int, default=1_000_000)
    parser.add_argument("--storage-mb-s", type=float, default=1250.0, help="of the storage, for all machines together")
    parser.add_argument("--cores", type=int, default=16, help="of one machine")
    args = parser.parse_args()
    parts = json.loads(args.file.read_text())["results"]["parts"]
    studies, megabytes = parts["studies"], parts["bytes"] / parts["studies"] / 1e6
    enter, read = statistics.mean(parts["enter"]), megabytes / args.storage_mb_s
    look, index, tables = (parts[name] / studies * args.studies / 3600 for name in ("look", "index", "tables"))
    print(f"{args.studies:,} studies of {parts['files'] / studies:.0f} files and {megabytes:.1f} MB")
    print(f"storage {args.storage_mb_s:.0f} MB/s; index {index:.2f} h at least, tables {tables:.2f} h always")
    heads = ("workers", "machines", "index, h", "encode, h", "all, h", "× 1", "parent", "storage", "waiting")
    print("".join(f"{head:>10}" for head in heads))
    first = None
    for workers in WORKERS:
        seconds, busy = simulate(workers, parts["encode"], enter, read, parts["start of a worker"])
        hours = seconds / SIMULATED * args.studies / 3600
        indexed = max(index, look / workers)
        whole = indexed + hours + tables
        first = first or whole
        took = f"{indexed:10.2f}{hours:10.2f}{whole:10.2f}{first / whole:10.1f}"
        print(f"{workers:10}{math.ceil(workers / args.cores):10}{took}" + "".join(f"{share:10.0%}" for share in busy))


def simulate(
    workers: int, encode: list[float], enter: float, read: float, start: float
) -> tuple[float, tuple[float, float, float]]:
    """Seconds for `SIMULATED` studies; shares of them: parent busy, storage busy, workers waiting."""
    times = random.Random(0)
    events = [(start, "ask") for _ in range(workers)]
    storage = parent = end = computed = 0.0
    left = SIMULATED
    while events:
        now, what = heapq.heappop(events)
        if what == "ask" and left:
            left -= 1
            storage = max(storage, now) + read
            seconds = times.choice(encode)
            computed += seconds
            heapq.heappush(events, (storage + seconds, "done"))
        elif what == "done":
            parent = end = max(parent, now) + enter
            heapq.heappush(events, (parent, "ask"))
    return end, (SIMULATED * enter / end, SIMULATED * read / end, 1 - computed / (workers * end))


if __name__ == "__main__":
    main()
