"""Power loss at 50 moments, from the arrival to the storage commitment, on a loop device copied without a sync.

    python benchmarks/pacs_power_loss.py [--seed N] [--only NAME …] [--json FILE]

Needs root, Orthanc and `mkfs.ext4`. `ctvae listen` lies on an ext4 file system on a loop device and sends to Orthanc,
with storage commitment, and to a folder beside its spool. At each named moment (`app/pacs/hooks.py`), then at random
ones, it is killed and the image copied as it is: what only the page cache held is gone. The listener then starts on the
copy, and the sender sends again what was not acknowledged. Bars: each acknowledged instance and each copied result is
there, whole; one current SR for each series; audit difference 0.

Not modelled: a disk that loses what it was given before a flush, or that lies about flushes; file systems other than
ext4, whose journal brings more to the disk with each fsync than was asked for; power loss of the destination.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from pacs_scene import (
    CTVAE,
    PORT,
    RELAY_PORT,
    ROOT,
    Relay,
    Running,
    association,
    check_audit,
    check_reports,
    inside,
    listening,
    load,
    relayed,
    seeded,
    small_series,
    to_orthanc,
    uids,
    until,
)
from pydicom import Dataset, dcmread
from sqlalchemy import select, update

from app.pacs.database.tables import delivery, instance, job, result
from app.pacs.hooks import KILL_AT
from operators.write_features import FEATURES_JSON, FEATURES_SR
from tests.support.orthanc import orthanc

OF_AN_INSTANCE = (
    *("receive.fsync.before", "receive.fsync.after", "receive.rename.before", "receive.rename.after"),
    *("receive.fsync_folder.after", "receive.commit.before", "receive.commit.after"),
)
OF_A_DELIVERY = ("send.take.before", "send.take.after", "send.answer.after", "send.sent.before", "send.sent.after")
ONCE = (
    *("receive.mkdir.after", "complete.commit.before", "complete.commit.after"),
    *("queue.lease.before", "queue.lease.after", "work.mkdir.after", "work.answer.after"),
    *("queue.finish.before", "queue.finish.after", "queue.fail.before", "queue.fail.after"),
    *("send.commitment.before", "send.commitment.after", "send.report.before", "send.report.after"),
    *("purge.digest.after", "purge.unlink.after"),
)
NAMED = [
    *(f"{moment}:{time}" for moment in OF_AN_INSTANCE for time in (2, 5)),
    *(f"{moment}:{time}" for moment in OF_A_DELIVERY for time in (1, 2)),
    *ONCE,
]
IN_ALL = 50
SLICES = 4
MODALITIES = {"ctvae": {"AET": "CTVAE", "Host": "127.0.0.1", "Port": PORT, "AllowStorageCommitment": True}}
WHOLE = "nothing: how long it takes"
Sent = tuple[list[Dataset], list[Dataset]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="named moments, or '2.5 s', instead of all")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    check_named()
    told = []
    with tempfile.TemporaryDirectory() as name, relayed() as relay:
        for _ in range(2):  # the first time, files are read that are in memory from then on
            whole = one(Path(name), WHOLE, 0, relay)
            print(line(whole), flush=True)
        moments = asked.only or NAMED
        if not asked.only:
            random = seeded(asked.seed)
            moments = [*NAMED, *(f"{random.uniform(0, whole['seconds']):.2f} s" for _ in range(IN_ALL - len(NAMED)))]
        for number, moment in enumerate(moments, 1):
            told.append(one(Path(name), moment, number, relay))
            print(line(told[-1]), flush=True)
    again = sum(one["C-STORE of the same SR again"] for one in told)
    print(f"{len(told)} moments; nothing acknowledged lost, one current SR for each of {2 * len(told)} series, audit")
    print(f"difference 0; {again} SR were sent twice, under the same UID; {load()}")
    if asked.json:
        asked.json.write_text(json.dumps(told, indent=1))


def check_named() -> None:
    """Check that each hook of the source is tried."""
    hooks = set()
    for path in (ROOT / "app" / "pacs").glob("*.py"):
        hooks |= set(re.findall(r'passing\("([\w.]+)"\)', path.read_text()))
    assert hooks == {moment.partition(":")[0] for moment in NAMED}, hooks


def line(told: Mapping[str, Any]) -> str:
    return f"{told['moment']:<28} " + ", ".join(f"{what} {found}" for what, found in list(told.items())[1:])


def one(folder: Path, moment: str, number: int, relay: Relay) -> dict[str, Any]:
    """Lose the power at a moment, go on with the copy, and check.

    Raises:
        AssertionError: what was lost, or is there twice.
    """
    series = small_series(2 * number, SLICES), small_series(2 * number + 1, SLICES)
    place, before = folder / str(number), len(relay.stored)
    disk, crash, at = place / "disk.img", place / "crash.img", place / "mounted"
    for made in (place, at, orthanc_folder := place / "orthanc"):
        made.mkdir()
    run("truncate", "-s", "128M", disk)
    run("mkfs.ext4", "-q", "-F", disk)
    start = time.monotonic()
    with orthanc(orthanc_folder, {"DicomModalities": MODALITIES}):
        with mounted(disk, at):
            copied = partial(run, "cp", "--sparse=always", disk, crash)
            acknowledged, seconds = until_power_loss(at, moment, series, copied)
        with mounted(crash, at), started(at) as running:
            kept = check_kept(running, acknowledged, series)
            check_copies(running, at)
            go_on(running, acknowledged, series)
            check_audit(running)
            check_reports(uids(series))
            check_copies(running, at, {str(some[0].SeriesInstanceUID) for some in series})
            results = running.count(result.c.rank == 0)
    stored = relay.stored[before:]
    shutil.rmtree(place)
    return {
        "moment": moment,
        "acknowledged": len(acknowledged),
        "there": kept,
        "SR": results,
        "C-STORE of the same SR again": len(stored) - len(set(stored)),
        "seconds": round(seconds, 2),
        "in all": round(time.monotonic() - start, 1),
    }


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[None]:
    """Mount an image; its journal is not written to the disk every 5 s, as it would be else, without being asked."""
    run("mount", "-o", "loop,commit=300", image, at)
    try:
        yield
    finally:
        until(lambda: subprocess.run(["umount", at], stderr=subprocess.DEVNULL).returncode == 0, 20)


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)


@contextmanager
def started(at: Path, kill_at: str = "") -> Iterator[Running]:
    orthanc_there = {**to_orthanc(RELAY_PORT), "commitment": True, "commitment_wait_s": 2.0, "timeout_s": 5.0}
    beside = {"name": "folder", "kind": "folder", "path": str(at / "out")}
    settings = {"quiet_s": 1.0, "reserve_mb": 8, "destinations": [beside, orthanc_there]}
    with listening(at, {KILL_AT: kill_at}, **settings) as running:
        try:
            yield running
        finally:
            running.database.close()


def until_power_loss(at: Path, moment: str, series: Sent, copy: Callable[[], None]) -> tuple[set[str], float]:
    """Run until the listener is gone, and copy the disk before anything else writes to it.

    Returns:
        Which instances were acknowledged, and how long it took from the first one.
    """
    random = moment.endswith(" s")
    with started(at, "" if random or moment == WHOLE else moment) as running, ThreadPoolExecutor(1) as pool:
        start = time.monotonic()
        if random:
            threading.Timer(float(moment.partition(" ")[0]), running.program.kill).start()
        sending = pool.submit(sent, [*series[0], *series[1]])
        if moment.startswith("queue.fail"):
            until(lambda: fails(running), 60)
        if moment == WHOLE or moment.startswith("purge"):
            sending.result()
            until(lambda: finished(running), 120)
        if moment.startswith("purge"):
            command = [CTVAE, "queue", "purge", "--yes", "--days", "0", "-c", at / "app.yaml"]
            ended = subprocess.run(command, env={**os.environ, KILL_AT: moment}, stdout=subprocess.DEVNULL)
            assert ended.returncode == -signal.SIGKILL, f"{moment} was not passed"
        if moment == WHOLE or moment.startswith("purge"):
            running.program.kill()
        running.program.wait(180)
        copy()
        seconds = time.monotonic() - start
    return sending.result(), seconds


def fails(running: Running) -> bool:
    """Have the first attempt of a job fail; whether the listener is gone."""
    shutil.rmtree(running.places.work, ignore_errors=True)
    return running.program.status() == psutil.STATUS_ZOMBIE


def sent(slices: Sequence[Dataset]) -> set[str]:
    """Send until the listener is gone; the instances that it acknowledged."""
    acknowledged = set[str]()
    try:
        with association(dimse_timeout=4) as assoc:
            for dataset in slices:
                if assoc.send_c_store(dataset).get("Status") == 0:
                    acknowledged.add(str(dataset.SOPInstanceUID))
    except (RuntimeError, ConnectionError):  # it was killed
        pass
    return acknowledged


def go_on(running: Running, acknowledged: set[str], series: Sent) -> None:
    """Send again what was not acknowledged, and wait until all of it is delivered and confirmed.

    What the last run had leased is due at once, as it would be somewhat later by itself.
    """
    with running.database.begin() as connection:
        for table, leased in ((job, "leased"), (delivery, "sending")):
            connection.execute(update(table).where(table.c.state == leased).values(lease_until=0))
        connection.execute(update(job).where(job.c.state == "waiting").values(not_before=0))
        connection.execute(update(delivery).where(delivery.c.state.in_(("waiting", "sent"))).values(not_before=0))
    missing = [dataset for some in series for dataset in some if str(dataset.SOPInstanceUID) not in acknowledged]
    assert len(sent(missing)) == len(missing) if missing else True
    until(lambda: finished(running), 120)


def finished(running: Running) -> bool:
    unconfirmed = running.count(delivery.c.destination == "orthanc", delivery.c.state == "sent")
    return running.settled() and not unconfirmed


def check_kept(running: Running, acknowledged: set[str], series: Sent) -> int:
    """Check that each acknowledged instance has its row and its file, with the pixels that were sent.

    Returns:
        How many instances are there. A file that a purge has begun to delete need not be.
    """
    pixels = {str(dataset.SOPInstanceUID): dataset.PixelData for some in series for dataset in some}
    rows = {row.sop_uid: row for row in running.rows(select(instance).where(instance.c.copy == 0))}
    assert acknowledged <= rows.keys(), f"lost: {acknowledged - rows.keys()}"
    for uid, row in rows.items():
        file = running.places.spool / row.path
        if file.exists() or row.content_digest is None:
            assert dcmread(file).PixelData == pixels[uid], f"{uid} is not what was sent"
    return len(rows)


def check_copies(running: Running, at: Path, expected: set[str] | None = None) -> None:
    """Check that each result that was said to be in the folder is; of the expected series the current one."""
    made: dict[str, list[bytes]] = {}
    columns = select(job.c.series_uid, result.c.path).join(result, result.c.job_id == job.c.id)
    for uid, path in running.rows(columns.where(result.c.rank == 0).order_by(result.c.id)):
        made.setdefault(uid, []).append((running.places.results / path).read_bytes())
    copied = select(job.c.series_uid).join(delivery, delivery.c.job_id == job.c.id)
    copied = copied.where(delivery.c.destination == "folder", delivery.c.state == "sent")
    said = {uid for (uid,) in running.rows(copied)}
    for uid in expected or said:
        json.loads((at / "out" / uid / FEATURES_JSON).read_bytes())
        there = (at / "out" / uid / FEATURES_SR).read_bytes()
        assert there in (made[uid][-1:] if expected else made[uid]), f"the copy of {uid} is another one"


if __name__ == "__main__":
    inside(main, "unshare", "--mount")
