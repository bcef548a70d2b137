"""Slices that a sender drops, and associations that it aborts in the middle of an object: `ctvae listen` fetches them.

    python benchmarks/pacs_dropped.py [--series 20] [--slices 40] [--dropped 0.05] [--retrieve get|move] [--seed N]

Orthanc has all of it; the sender forwards it but drops 5 % of the slices at random and, as often, sends half an object
and leaves. Bar: the listener finds out by C-FIND, fetches the missing ones, and Orthanc ends with one current SR for
each series over all its slices; the audit's difference is 0.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from pacs_scene import (
    CT,
    EXPLICIT,
    PORT,
    RELAY_PORT,
    arrived,
    ask,
    association,
    check_audit,
    check_reports,
    inside,
    listening,
    load,
    relayed,
    seeded,
    small_series,
    stored,
    to_orthanc,
    uids,
    until,
)
from pydicom import Dataset
from sqlalchemy import select

from app.pacs.database.tables import instance
from tests.support.listeners import accepted, data_set_of, store_rq
from tests.support.orthanc import AE_TITLE, DICOM_PORT, orthanc

ASSOCIATIONS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=20)
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--dropped", type=float, default=0.05)
    parser.add_argument("--retrieve", choices=["get", "move"], default="get")
    parser.add_argument("--seed", type=int)
    asked = parser.parse_args()
    chance = seeded(asked.seed)
    made = [small_series(number, asked.slices) for number in range(asked.series)]
    fates = [[fate(chance, asked.dropped) for _ in one] for one in made]
    query = {"ae_title": AE_TITLE, "port": DICOM_PORT, "retrieve": asked.retrieve, "retry_s": 1.0}
    knows = {"DicomModalities": {"ctvae": ["CTVAE", "127.0.0.1", PORT]}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "orthanc").mkdir()
        settings = {"quiet_s": 2.0, "query": query, "destinations": [to_orthanc(RELAY_PORT)]}
        with orthanc(folder / "orthanc", knows), relayed() as relay, listening(folder, **settings) as running:
            for dataset in (one for some in made for one in some):
                ask("/instances", body=written(dataset))
            start = time.monotonic()
            with ThreadPoolExecutor(ASSOCIATIONS) as pool:
                list(pool.map(lambda at: forward(made[at::ASSOCIATIONS], fates[at::ASSOCIATIONS]), range(ASSOCIATIONS)))
            total = Counter(one for some in fates for one in some)
            print(f"sent in {time.monotonic() - start:.0f} s: {dict(total)}; {arrived(running)} arrived", flush=True)
            until(running.settled, 600)
            came = Counter(row[0] for row in running.rows(select(instance.c.calling_ae)))
            print(f"settled after {time.monotonic() - start:.0f} s; {load()}; who sent it: {dict(came)}", flush=True)
            print(check_audit(running))
            print(check_reports(uids(made)))
            print(relay)


def fate(chance: random.Random, dropped: float) -> str:
    drawn = chance.random()
    return "dropped" if drawn < dropped else "aborted" if drawn < 2 * dropped else "sent"


def forward(share: Sequence[list[Dataset]], fates: Sequence[list[str]]) -> None:
    """Send slices until one is to be aborted; then begin a new association."""
    for some in runs(share, fates):
        with association() as assoc:
            for dataset in some[:-1]:
                stored(assoc, dataset)
        if some[-1] is not None:
            half_sent(some[-1])


def runs(share: Sequence[list[Dataset]], fates: Sequence[list[str]]) -> Iterator[list[Dataset | None]]:
    """Slices to send one after the other, and the one in whose middle the sender leaves; None where it is at an end."""
    some: list[Dataset | None] = []
    slices, ends = (one for some in share for one in some), (one for some in fates for one in some)
    for dataset, is_to in zip(slices, ends, strict=True):
        if is_to == "dropped":
            continue
        some.append(dataset)
        if is_to == "aborted":
            yield some
            some = []
    yield [*some, None]


def half_sent(dataset: Dataset) -> None:
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        file.write(written(dataset))
        file.flush()
        whole = data_set_of(Path(file.name))
    with suppress(OSError), accepted(PORT, EXPLICIT) as peer:
        peer.sendall(store_rq(str(dataset.SOPInstanceUID), whole[: len(whole) // 2], last=False))


def written(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    assert dataset.SOPClassUID == CT
    return buffer.getvalue()


if __name__ == "__main__":
    inside(main)
