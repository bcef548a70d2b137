"""Many small series, one after the other, through `ctvae listen` into Orthanc: do memory and handles stay flat?

    python benchmarks/pacs_soak.py [--series 2000] [--slices 6] [--minutes 60] [--json FILE]

Ends after so many minutes, and says how many series it came to. The first tenth warms up; the rest is compared by its
two halves: threads and handles must not grow, and resident memory is reported for listener and worker.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from pacs_scene import (
    Running,
    association,
    check_audit,
    inside,
    listening,
    load,
    small_series,
    stored,
    to_orthanc,
    until,
)
from sqlalchemy import select

from app.pacs.database.tables import delivery, job
from tests.support.orthanc import orthanc

AT_ONCE = 20
MACHINE_BUSY_S = 120.0
"""On a machine whose disk others keep busy, an fsync has taken half a minute."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=2000)
    parser.add_argument("--slices", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "orthanc").mkdir()
        settings = {"quiet_s": 1.0, "destinations": [to_orthanc()]}
        with orthanc(folder / "orthanc"), listening(folder, **settings) as running:
            start, states = time.monotonic(), [running.state()]
            for first in range(0, asked.series, AT_ONCE):
                if time.monotonic() - start > asked.minutes * 60:
                    break
                some_sent(first, asked.slices)
                until(lambda: delivered(running) >= first + AT_ONCE, 300)  # noqa: B023 — called at once
                states.append(running.state())
                if len(states) % 10 == 1:
                    print(f"{first + AT_ONCE:>5} series, {time.monotonic() - start:.0f} s: {states[-1]}", flush=True)
            print(check_audit(running))
    done = (len(states) - 1) * AT_ONCE
    print(f"{done} series of {asked.slices} slices in {(time.monotonic() - start) / 60:.1f} min; {load()}")
    for what, (before, after) in halves(states).items():
        print(f"{what:<14} at most {before:g} in the first half, {after:g} in the second")
    if asked.json:
        asked.json.write_text(json.dumps(states, indent=1))


def some_sent(first: int, slices: int) -> None:
    with association(dimse_timeout=MACHINE_BUSY_S) as assoc:
        for number in range(first, first + AT_ONCE):
            for dataset in small_series(number, slices):
                stored(assoc, dataset)


def delivered(running: Running) -> int:
    """Series of which a result was sent; a revision, where a pause came between its slices, counts once."""
    sent = select(job.c.series_uid).join(delivery).where(delivery.c.state == "sent").distinct()
    return len(running.rows(sent))


def halves(states: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """The highest value of the first and of the second half, without the first tenth."""
    warm = states[len(states) // 10 :]
    middle = len(warm) // 2
    of = {what: [one[what] for one in warm if what in one] for what in warm[-1]}
    return {what: (max(values[:middle]), max(values[middle:])) for what, values in of.items() if middle}


if __name__ == "__main__":
    inside(main)
