"""Power loss while CT arrives: a file system on a loop device, whose image is copied without a sync. Needs root.

    python benchmarks/pacs_power_loss.py

At each named moment of the arrival the receiver is killed, the image is copied as it is (what only the page cache held
is gone), and the copy is mounted: each acknowledged instance must be there, whole. Not modelled: a disk that lies about
flushes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pacs_receive import made_slices
from pydicom import dcmread
from pynetdicom import AE

PASSED = (
    *("fsync.before", "fsync.after", "rename.before", "rename.after", "fsync_folder.after"),
    *("commit.before", "commit.after"),
)
MOMENTS = [f"receive.{moment}:{time}" for moment in PASSED for time in (2, 5)]
INSIDE = "CTVAE_BENCHMARK_INSIDE"


def main() -> None:
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])
    lost = 0
    with tempfile.TemporaryDirectory() as name:
        slices = sorted(made_slices(Path(name) / "slices", 8, 0).iterdir())
        for moment in MOMENTS:
            acknowledged, there = one(Path(name), slices, moment)
            missing = acknowledged - there
            lost += len(missing)
            print(f"{moment:<30} acknowledged {len(acknowledged)}, there {len(there)}, lost {len(missing)}", flush=True)
    sys.exit(f"lost: {lost}" if lost else 0)


def one(folder: Path, slices: list[Path], moment: str) -> tuple[set[str], set[str]]:
    disk, crash, mounted = folder / "disk.img", folder / "crash.img", folder / "mounted"
    mounted.mkdir(exist_ok=True)
    run("truncate", "-s", "64M", disk)
    run("mkfs.ext4", "-q", "-F", disk)
    run("mount", "-o", "loop", disk, mounted)
    command = [sys.executable, "-W", "ignore", Path(__file__).with_name("pacs_receive.py")]
    command += ["--serve", mounted, "yes", "--port", "0"]
    environment = {**os.environ, "CTVAE_KILL_AT": moment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as program:
        acknowledged = sent(int(program.stdout.readline()), slices)
        program.wait(60)
    run("cp", disk, crash)
    run("umount", mounted)
    run("mount", "-o", "loop", crash, mounted)
    files = list((mounted / "spool" / "instances").rglob("*.dcm"))
    there = {str(dataset.SOPInstanceUID) for dataset in map(dcmread, files) if len(dataset.PixelData) == 512 * 512 * 2}
    run("umount", mounted)
    return acknowledged, there


def sent(port: int, slices: list[Path]) -> set[str]:
    ae = AE("SENDER")
    ae.add_requested_context("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")
    ae.dimse_timeout = 5
    assoc = ae.associate("127.0.0.1", port, ae_title="CTVAE")
    acknowledged = set()
    for path in slices:
        dataset = dcmread(path)
        try:
            status = assoc.send_c_store(dataset).get("Status")
        except RuntimeError:
            break
        if status == 0:
            acknowledged.add(str(dataset.SOPInstanceUID))
    time.sleep(0.1)
    return acknowledged


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)


if __name__ == "__main__":
    main()
