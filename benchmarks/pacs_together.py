"""Many series over 8 associations at once, with pauses beyond the quiet time, to `ctvae listen` and back to Orthanc.

    python benchmarks/pacs_together.py [--series 100] [--slices 15]

Each association sends the first third of its series, slice by slice in turn, waits for longer than the quiet time, and
sends the next third. Bar: Orthanc ends with one current SR for each series, over all its slices, and each earlier one
is named as predecessor by the next. A relay before Orthanc counts the C-STORE requests.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pacs_scene import (
    RELAY_PORT,
    arrived,
    association,
    check_audit,
    check_reports,
    inside,
    listening,
    load,
    relayed,
    small_series,
    stored,
    to_orthanc,
    uids,
    until,
)
from pydicom import Dataset

from tests.support.orthanc import orthanc

ASSOCIATIONS, PARTS = 8, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=100)
    parser.add_argument("--slices", type=int, default=15)
    parser.add_argument("--quiet-s", type=float, default=2.0)
    parser.add_argument("--pause-s", type=float, default=6.0)
    asked = parser.parse_args()
    made = [small_series(number, asked.slices) for number in range(asked.series)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "orthanc").mkdir()
        settings = {"quiet_s": asked.quiet_s, "destinations": [to_orthanc(RELAY_PORT)]}
        with orthanc(folder / "orthanc"), relayed() as relay, listening(folder, **settings) as running:
            start = time.monotonic()
            with ThreadPoolExecutor(ASSOCIATIONS) as pool:
                shares = [made[number::ASSOCIATIONS] for number in range(ASSOCIATIONS)]
                for count in pool.map(lambda share: sent(share, asked.pause_s), shares):
                    assert count
            print(f"sent in {time.monotonic() - start:.0f} s, {arrived(running)} instances", flush=True)
            until(running.settled, 1200)
            print(f"settled after {time.monotonic() - start:.0f} s; {load()}", flush=True)
            print(check_audit(running))
            print(check_reports(uids(made)))
            print(relay)


def sent(share: Sequence[list[Dataset]], pause_s: float) -> int:
    """Send a share of the series over one association; how many slices."""
    count = 0
    with association() as assoc:
        for part in range(PARTS):
            time.sleep(pause_s if part else 0.0)
            third = [one[part * len(one) // PARTS : (part + 1) * len(one) // PARTS] for one in share]
            for slices in zip(*third, strict=True):
                for dataset in slices:
                    stored(assoc, dataset)
                    count += 1
    return count


if __name__ == "__main__":
    inside(main)
