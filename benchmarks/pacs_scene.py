"""What the scripts `pacs_*.py` share: a listener and an Orthanc in a network of their own, a relay that counts, checks.

A script calls `inside(main)`: it runs again in a network namespace that has nothing but loopback.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
from alone import alone
from pydicom import Dataset, dcmread
from pynetdicom import AE, evt
from sqlalchemy import func, select

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from app.pacs.audit import audit  # noqa: E402
from app.pacs.database.engine import Database, open_database  # noqa: E402
from app.pacs.database.tables import delivery, instance, job, result, series  # noqa: E402
from app.pacs.outgoing import prepare  # noqa: E402
from app.pacs.places import Places  # noqa: E402
from tests.support.orthanc import AE_TITLE, DICOM_PORT, URL  # noqa: E402

INSIDE = "CTVAE_BENCHMARK_INSIDE"
CTVAE = str(Path(sys.executable).with_name("ctvae"))
PORT, RELAY_PORT = 11112, 14242
CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
C_STORE_RQ = b"\0\0\0\x01\2\0\0\0\1\0"  # element (0000,0100), Command Field


def inside(main: Callable[[], None], *before: str) -> None:
    """Run a script's main in a network namespace of its own.

    Args:
        before: a command that this command is put after.
    """
    if INSIDE in os.environ:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # what it started is ended, too
        main()
        return
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    command = [*before, *alone(), sys.executable, *sys.argv]
    os.execvpe(command[0], command, {**os.environ, "PATH": path, INSIDE: "1"})


def load() -> str:
    """What else the machine is at."""
    return f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"


@dataclass(frozen=True)
class Running:
    """A listener that runs.

    Attributes:
        program: its process.
        places: where it keeps what.
        database: of its queue.
    """

    program: psutil.Process
    places: Places
    database: Database

    def rows(self, statement: Any) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(statement).all())

    def count(self, *conditions: Any) -> int:
        return int(self.rows(select(func.count()).where(*conditions))[0][0])

    def settled(self) -> bool:
        """Whether nothing waits any more."""
        open_jobs = self.count(job.c.state.in_(("waiting", "leased")))
        open_sent = self.count(delivery.c.state.in_(("waiting", "sending")))
        return not (self.count(series.c.state == "arriving") or open_jobs or open_sent)

    def state(self) -> dict[str, float]:
        """Threads, handles and resident memory of the listener, and the latter two of its worker's process."""
        (child,) = self.program.children() or [None]
        mine = {"threads": self.program.num_threads(), "handles": self.program.num_fds(), "mb": megabytes(self.program)}
        return mine | ({"child handles": child.num_fds(), "child mb": megabytes(child)} if child else {})


def megabytes(process: psutil.Process) -> float:
    return round(process.memory_info().rss / 1e6, 1)


@contextmanager
def listening(folder: Path, environment: Mapping[str, str] | None = None, **listener: Any) -> Iterator[Running]:
    """Run `ctvae listen` until the block ends; ready when its model is loaded."""
    place = folder / "listener"
    settings = {"folder": str(place), "port": PORT, "reserve_mb": 256, **listener}
    settings |= {"page": {"port": 8099}, "log": {"audit_file": str(folder / "audit.jsonl")}}
    file = folder / "app.yaml"
    file.write_text(json.dumps({"listener": settings}))
    command = [CTVAE, "listen", "-c", str(file), "-l", "WARN"]
    with subprocess.Popen(command, process_group=0, env={**os.environ, **(environment or {})}) as program:
        try:
            until(lambda: answers("http://127.0.0.1:8099/readyz"), 180)
            database = open_database(f"sqlite:///{place}/queue.db")
            yield Running(psutil.Process(program.pid), Places(place), database)
        finally:
            program.terminate()


def to_orthanc(port: int = DICOM_PORT) -> dict[str, Any]:
    return {"name": "orthanc", "ae_title": AE_TITLE, "port": port}


def until(holds: Callable[[], bool], seconds: float, every_s: float = 0.2) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"it did not happen in {seconds:g} s")
        time.sleep(every_s)


def answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=5):
        return True
    return False


def ask(path: str, query: object = None, body: bytes | None = None) -> bytes:
    """Ask Orthanc."""
    data = json.dumps(query).encode() if query is not None else body
    with urllib.request.urlopen(f"{URL}{path}", data, timeout=60) as answer:
        return bytes(answer.read())


def reports() -> list[Dataset]:
    """All SR that Orthanc holds."""
    found = json.loads(ask("/tools/find", {"Level": "Instance", "Query": {"Modality": "SR"}}))
    return [dcmread(BytesIO(ask(f"/instances/{one}/file"))) for one in found]


def evidence(report: Dataset) -> set[tuple[str, str]]:
    """(series, instance) of what a report was made from."""
    studies = report.CurrentRequestedProcedureEvidenceSequence
    found = [(one.SeriesInstanceUID, sop) for study in studies for one in study.ReferencedSeriesSequence for sop in
             one.ReferencedSOPSequence]  # fmt: skip
    return {(str(uid), str(sop.ReferencedSOPInstanceUID)) for uid, sop in found}


def predecessors(report: Dataset) -> set[str]:
    studies = report.get("PredecessorDocumentsSequence", [])
    listed = [sop for study in studies for one in study.ReferencedSeriesSequence for sop in one.ReferencedSOPSequence]
    return {str(sop.ReferencedSOPInstanceUID) for sop in listed}


def check_reports(sent: dict[str, set[str]]) -> str:
    """Check what Orthanc holds: of each series one current SR, over all slices, and each earlier one named once.

    Args:
        sent: series → its SOP Instance UIDs.

    Raises:
        AssertionError: what is wrong.
    """
    of_series: dict[str, list[Dataset]] = defaultdict(list)
    for report in (held := reports()):
        (uid,) = {uid for uid, _ in evidence(report)}
        of_series[uid].append(report)
    assert of_series.keys() == sent.keys(), f"SR of {len(of_series)} series; expected {len(sent)}"
    for uid, some in of_series.items():
        named = Counter(sop for report in some for sop in predecessors(report))
        here = {str(report.SOPInstanceUID) for report in some}
        current = [report for report in some if str(report.SOPInstanceUID) not in named]
        assert len(current) == 1, f"{len(current)} current SR of series {uid}"
        assert here - {str(current[0].SOPInstanceUID)} == set(named), (
            f"an earlier SR of {uid} is not named, or not here"
        )
        assert set(named.values()) <= {1}, f"series {uid}: two SR name the same predecessor"
        assert {sop for _, sop in evidence(current[0])} == sent[uid], f"series {uid}: the current SR has other slices"
    return f"Orthanc holds {len(held)} SR: of each of {len(sent)} series one current one, over all its slices"


def check_audit(running: Running) -> str:
    found = audit(running.database, running.places)
    assert (found.difference, found.ended, found.waiting) == (0, {}, 0), found
    assert found.delivered == found.acknowledged, found
    jobs = Counter(" ".join(filter(None, row)) for row in running.rows(select(job.c.state, job.c.reason)))
    made = f"jobs {dict(jobs)}, {running.count(result.c.rank == 0)} SR"
    return f"audit: {found.acknowledged} acknowledged, {found.delivered} delivered, difference 0; {made}"


def arrived(running: Running) -> int:
    return running.count(instance.c.copy == 0)


@dataclass
class Relay:
    """Between the listener and Orthanc; notes each C-STORE request that passes.

    Attributes:
        stored: SOP Instance UID of each attempt.
    """

    stored: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        again = len(self.stored) - len(set(self.stored))
        return f"the relay saw {len(self.stored)} C-STORE of {len(set(self.stored))} SR, {again} of them again"


@contextmanager
def relayed(to: int = DICOM_PORT, at: int = RELAY_PORT) -> Iterator[Relay]:
    relay = Relay()
    server = socket.create_server(("127.0.0.1", at), backlog=64)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                peer = socket.create_connection(("127.0.0.1", to))
                threading.Thread(target=_requests, args=(client, peer, relay), daemon=True).start()
                threading.Thread(target=_bytes, args=(peer, client), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield relay
    finally:
        server.close()


def _requests(source: socket.socket, to: socket.socket, relay: Relay) -> None:
    """PDU by PDU (PS3.8 9.3); the command of a C-STORE request names the instance, element (0000,1000)."""
    with suppress(OSError), source.makefile("rb") as stream:
        while head := stream.read(6):
            body = stream.read(struct.unpack(">I", head[2:])[0])
            if head[:1] == b"\4" and C_STORE_RQ in body[:256]:
                _, _, rest = body.partition(b"\0\0\0\x10")
                length = struct.unpack("<I", rest[:4])[0]
                relay.stored.append(rest[4 : 4 + length].decode().rstrip("\0 "))
            to.sendall(head + body)
    with suppress(OSError):
        to.shutdown(socket.SHUT_WR)


def _bytes(source: socket.socket, to: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            to.sendall(piece)
    with suppress(OSError):
        to.shutdown(socket.SHUT_WR)


@contextmanager
def association(calling: str = "SENDER", dimse_timeout: float = 30) -> Iterator[Any]:
    ae = AE(calling)
    ae.dimse_timeout = dimse_timeout
    ae.add_requested_context(CT, EXPLICIT)
    assoc = ae.associate("127.0.0.1", PORT, ae_title="CTVAE", evt_handlers=[(evt.EVT_CONN_OPEN, prepare)])
    assert assoc.is_established
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def stored(assoc: Any, dataset: Dataset) -> None:
    """Send an object, which must be taken."""
    start = time.monotonic()
    status = assoc.send_c_store(dataset).get("Status")
    if status != 0:
        said = "no answer" if status is None else f"0x{status:04X}"
        raise RuntimeError(f"C-STORE: {said} after {time.monotonic() - start:.1f} s")


def small_series(number: int, slices: int, side: int = 32) -> list[Dataset]:
    """A series of a study of its own; its pixels are noise."""
    import numpy as np

    from operators.synthetic.write_ct import CtOptions, affine_for, ct_datasets

    hu = np.random.default_rng(number).integers(-1000, 1000, (slices, side, side)).astype(np.int16)
    return list(ct_datasets(hu, affine_for(hu.shape, (5.0, 10.0, 10.0)), CtOptions(study_id=str(number))))


def uids(some: Sequence[Sequence[Dataset]]) -> dict[str, set[str]]:
    return {str(one[0].SeriesInstanceUID): {str(dataset.SOPInstanceUID) for dataset in one} for one in some}


def seeded(given: int | None) -> random.Random:
    """A generator whose seed is printed."""
    seed = random.SystemRandom().randrange(1 << 32) if given is None else given
    print(f"--seed {seed}", flush=True)
    return random.Random(seed)
