"""Large Enhanced CT objects, several at once: does the memory of `ctvae listen` stay bounded?

    python benchmarks/pacs_enhanced.py [--senders 8] [--mb 600]

Each sender streams one object of 512² frames, one frame repeated, over an association of its own. Printed: the peak of
resident memory of the listener before and after, and of the worker's process when it has encoded the first object. The
spool takes senders × mb on the disk.
"""

from __future__ import annotations

import argparse
import struct
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
from pacs_scene import EXPLICIT, PORT, Running, arrived, inside, listening, load, until
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset
from pydicom.uid import EnhancedCTImageStorage
from sqlalchemy import select

from app.pacs.database.tables import job
from operators.synthetic.write_ct import CtOptions, affine_for, ct_datasets
from operators.synthetic.write_enhanced_ct import enhanced_ct
from tests.support.listeners import associate_rq, connect, p_data, status_in, store_command

SIDE = 512
FRAME_BYTES = 2 * SIDE * SIDE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--senders", type=int, default=8)
    parser.add_argument("--mb", type=int, default=600)
    asked = parser.parse_args()
    frames = asked.mb * 1_000_000 // FRAME_BYTES
    headers = [header(number, frames) for number in range(asked.senders)]
    with tempfile.TemporaryDirectory() as name, listening(Path(name), quiet_s=10.0) as running:
        before = peak_mb(running.program.pid)
        start = time.monotonic()
        with ThreadPoolExecutor(asked.senders) as pool:
            statuses = list(pool.map(lambda one: streamed(*one, frames), headers))
        seconds = time.monotonic() - start
        assert statuses == [0] * asked.senders == [0] * arrived(running), statuses
        sent = asked.senders * frames * FRAME_BYTES / 1e6
        print(f"{sent:.0f} MB in {seconds:.0f} s, {sent / seconds:.0f} MB/s; {load()}")
        print(f"listener, peak: {before:.0f} MB at rest, {peak_mb(running.program.pid):.0f} MB afterwards", flush=True)
        (child,) = running.program.children()
        until(lambda: ended(running) != [], 900, 1.0)
        print(f"first job: {ended(running)[0]}; worker's process, peak: {peak_mb(child.pid):.0f} MB")


def header(number: int, frames: int) -> tuple[str, bytes]:
    """SOP Instance UID and all of the data set before its pixels, whose length it states."""
    small = np.zeros((frames, 4, 4), np.int16)
    affine = affine_for((frames, SIDE, SIDE), (0.5, 0.7, 0.7))
    dataset = enhanced_ct(list(ct_datasets(small, affine, CtOptions(study_id=str(number)))))
    dataset.Rows = dataset.Columns = SIDE
    del dataset.PixelData
    buffer = BytesIO()
    file = DicomFileLike(buffer)
    file.is_little_endian, file.is_implicit_VR = True, False
    write_dataset(file, dataset)
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, frames * FRAME_BYTES)
    return str(dataset.SOPInstanceUID), buffer.getvalue() + pixels


def streamed(uid: str, head: bytes, frames: int) -> int:
    """Send one object; the status of its answer."""
    plane = np.random.default_rng(0).integers(-1000, 1000, (SIDE, SIDE)).astype("<i2").tobytes()
    pieces = [plane[at : at + 65_536] for at in range(0, FRAME_BYTES, 65_536)]
    frame = b"".join(p_data(piece) for piece in pieces)
    with connect(PORT) as peer:
        peer.settimeout(600)
        peer.sendall(associate_rq(EXPLICIT, EnhancedCTImageStorage))
        assert peer.recv(4096)[:1] == b"\2"
        peer.sendall(store_command(uid, EnhancedCTImageStorage))
        for at in range(0, len(head), 65_536):
            peer.sendall(p_data(head[at : at + 65_536]))
        for _ in range(frames - 1):
            peer.sendall(frame)
        peer.sendall(b"".join([*(p_data(piece) for piece in pieces[:-1]), p_data(pieces[-1], 2)]))
        return status_in(peer.recv(4096))


def peak_mb(pid: int) -> float:
    """The highest resident memory so far."""
    (line,) = [one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


def ended(running: Running) -> list[tuple[str, str | None]]:
    states = select(job.c.state, job.c.reason).where(job.c.ended_at.is_not(None)).order_by(job.c.ended_at)
    return [tuple(row) for row in running.rows(states)]


if __name__ == "__main__":
    inside(main)
