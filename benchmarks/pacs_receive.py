"""How fast C-STORE is received, beside DCMTK's storescp and Orthanc; sent by DCMTK's storescu, 512² slices.

    python benchmarks/pacs_receive.py [--slices 200] [--repeats 5] [--json FILE]

Without fsync, as the others do it, one association and four; what our fsyncs cost stands on a line of its own. Needs
DCMTK and Orthanc, and runs all of it in a network namespace that has nothing but loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
from alone import alone

ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1", "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
INSIDE = "CTVAE_BENCHMARK_INSIDE"
PORT = 11112
RECEIVERS = ("storescp", "Orthanc", "ctvae, no fsync", "ctvae")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", nargs=2, metavar=("FOLDER", "FSYNC"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=PORT, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(Path(asked.serve[0]), asked.serve[1] == "yes", asked.port)
    elif INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        os.execvpe("unshare", [*alone(), sys.executable, *sys.argv], {**os.environ, "PATH": ENVIRONMENT["PATH"]})
    else:
        measure(asked)


def measure(asked: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sets = [
            made_slices(folder / f"set{number}", asked.slices // (4 if number else 1), number) for number in range(5)
        ]
        megabytes = sum(path.stat().st_size for path in sets[0].iterdir()) / 1e6
        rates: dict[str, list[float]] = defaultdict(list)
        for _ in range(asked.repeats):  # in turn: what else the machine does is then the same for all
            for receiver in RECEIVERS:
                for associations, sources in ((1, sets[:1]), (4, sets[1:])):
                    label = f"{receiver}, {associations} association{'s' * (associations > 1)}"
                    rates[label].append(rate(folder, receiver, sources, megabytes))
        for label, found in rates.items():
            shares = [median(share(found, rates[f"{one}, 1 association"])) for one in RECEIVERS[:2]]
            print(f"{label:<36} {median(found):7.1f} MB/s  {shares[0]:5.2f} × storescp  {shares[1]:5.2f} × Orthanc")
        told = f"{asked.slices} slices of 512², {megabytes:.0f} MB, medians of {asked.repeats}"
        print(f"{told}; load average {os.getloadavg()[0]:.1f}")
        if asked.json:
            asked.json.write_text(json.dumps({"slices": asked.slices, "megabytes_per_s": rates}, indent=1))


def share(found: list[float], of: list[float]) -> list[float]:
    """Of each round."""
    return [one / other for one, other in zip(found, of, strict=True)]


def made_slices(folder: Path, count: int, seed: int) -> Path:
    from operators.synthetic.write_ct import CtOptions, affine_for, write_ct_series

    hu = np.random.default_rng(seed).integers(-1000, 2000, (count, 512, 512)).astype(np.int16)
    options = CtOptions(study_id=str(seed))
    write_ct_series(hu, affine_for(hu.shape, (1.0, 0.7, 0.7)), folder, options)
    return folder


def rate(folder: Path, receiver: str, sources: list[Path], megabytes: float) -> float:
    """MB/s from the first association to the last release."""
    place = Path(tempfile.mkdtemp(dir=folder))
    with receiving(receiver, place):
        start = time.perf_counter()
        command = ["/usr/bin/storescu", "-aec", "CTVAE", "127.0.0.1", str(PORT), "+sd"]
        sending = [subprocess.Popen([*command, source], env=ENVIRONMENT) for source in sources]
        if any(one.wait() for one in sending):
            raise RuntimeError("storescu failed")
        seconds = time.perf_counter() - start
        sent = sum(1 for source in sources for _ in source.iterdir())
        if receiver != "Orthanc" and sum(1 for path in place.rglob("*") if _is_kept(path)) != sent:
            raise RuntimeError(f"{receiver} did not keep what was sent; storescu ends well all the same")
    shutil.rmtree(place)
    return megabytes / seconds


def _is_kept(path: Path) -> bool:
    return path.suffix == ".dcm" or path.name.startswith("CT.")


@contextmanager
def receiving(receiver: str, place: Path):
    settings = {
        **{"StorageDirectory": str(place), "IndexDirectory": str(place), "DicomPort": PORT, "HttpPort": 8042},
        "DicomCheckCalledAet": False,
    }
    (place / "orthanc.json").write_text(json.dumps(settings))
    fsync = "no" if "no fsync" in receiver else "yes"
    command = {
        "storescp": ["/usr/bin/storescp", "--fork", "-od", place, str(PORT)],
        "Orthanc": ["Orthanc", place / "orthanc.json"],
    }.get(receiver, [sys.executable, __file__, "--serve", place, fsync])
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=ENVIRONMENT, **quiet) as program:
        try:
            echo = ["/usr/bin/echoscu", "-aec", "CTVAE", "127.0.0.1", str(PORT)]
            while subprocess.run(echo, env=ENVIRONMENT, **quiet, check=False).returncode:
                time.sleep(0.1)
            yield
        finally:
            program.kill()


def serve(folder: Path, fsync: bool, port: int) -> None:
    """Receive, without completer and worker."""
    import logging

    from app.pacs.database import engine
    from app.pacs.intake import Intake
    from app.pacs.receive import Receiver, accepted_contexts, application_entity, receive_into
    from app.pacs.server import HardenedServer
    from app.pacs.settings import ListenerSettings
    from app.pacs.spool import Spool

    if not fsync:
        os.fsync = lambda handle: None
        engine._PRAGMAS = ("busy_timeout=30000", "synchronous=OFF")
    for noisy in ("pynetdicom", "app"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    settings = ListenerSettings()
    spool = Spool(folder / "spool", 0, 1 << 32)
    database = engine.open_database(f"sqlite:///{folder}/queue.db")
    receive_into(spool)
    server = HardenedServer(
        application_entity(settings),
        ("127.0.0.1", port),
        accepted_contexts(),
        limits=settings.limits,
        receiver=Receiver(Intake(spool, database)),
        on_sweep=spool.sweep,
    )
    server.start()
    print(server.port, flush=True)
    time.sleep(3600)


@contextmanager
def receiving_ctvae(folder: Path):
    """The program that `serve` is, and its port: any free one."""
    command = [sys.executable, "-W", "ignore", __file__, "--serve", folder, "yes", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        try:
            yield program, int(program.stdout.readline())
        finally:
            program.kill()


if __name__ == "__main__":
    main()
