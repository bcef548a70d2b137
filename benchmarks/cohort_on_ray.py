"""Check `ctvae cohort --engine ray` on a real Ray cluster of two nodes that loses a worker and then a whole node.

    python benchmarks/cohort_on_ray.py [--patients 8]

Small phantoms are encoded by the local engine and on the cluster, in a network namespace that has nothing but loopback,
for Ray listens on every address. When the first study has ended, a worker is killed as `kill -9` does; when the second
has, a node is. The units are made so large that the object store must spill them to the disk. The tables must be the
same bytes. It ends with exit code 1 where anything is not as it should be.

This is no test of CI: it takes two minutes, and a node of Ray gives up unless its agent, a Python process that imports
half of Ray, is up after 15 s of wall clock. On two cores with ten other programs at work it is not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
from alone import alone

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]
NODE = {
    **{"num_cpus": 1, "object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.1"},
    **{"include_dashboard": False, "include_log_monitor": False, "no_monitor": True},
}
WORKER = "ray::MapWorker"
ENCODER = "multiprocessing.spawn"
BALLAST = 20 * 2**20
END_S = 30
"""For the workers to end once the command has, which Ray does after it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=8)
    parser.add_argument("--inside", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        out, sys.stdout = sys.stdout, sys.stderr
        with tempfile.TemporaryDirectory(prefix="r") as name:  # a short one, for sockets lie in it
            os.environ |= {"RAY_TMPDIR": name, "RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
            print(json.dumps(on_ray(*args.inside)), file=out)
        return
    with tempfile.TemporaryDirectory() as name:
        sys.exit(check(Path(name), args.patients))


def check(folder: Path, patients: int) -> int:
    from tests.support.cohort_runs import run_here
    from tests.support.cohorts import write_cohort

    data = write_cohort(folder / "data", patients)
    assert run_here(data, folder / "local") == 0
    command = [*alone(), sys.executable, __file__, "--inside", data, folder / "ray"]
    start = time.monotonic()
    said = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True).stdout
    found = json.loads(said)
    found["the same bytes"] = tables(folder / "ray") == tables(folder / "local")
    print(f"{time.monotonic() - start:.0f} s on Ray: {json.dumps(found)}")
    wanted = {"nodes": 2, "spilled": True, "exit": 0, "studies": patients, "workers left": 0, "the same bytes": True}
    print("as it should be" if found == wanted else f"WRONG; expected {json.dumps(wanted)}")
    return int(found != wanted)


def on_ray(data: Path, output: Path) -> dict[str, object]:
    import pyarrow as pa
    from ray.cluster_utils import Cluster as RayCluster

    from app.cohort import on_ray, run
    from app.cohort.ended import EndedStore
    from app.cohort.local import Limits
    from tests.support.cohort_runs import SETTINGS

    cluster = RayCluster(initialize_head=True, head_node_args=NODE)
    other = cluster.add_node(**NODE)
    told: dict[str, object] = {"nodes": len(cluster.list_all_nodes())}
    enter, tables_of, units = EndedStore.enter, on_ray._tables, []

    def heavy_tables(of, size):
        for table in tables_of(of, size):
            yield table.append_column("ballast", pa.array([os.urandom(BALLAST)] * table.num_rows, pa.binary()))

    def enter_and_kill(self, unit, ended):
        enter(self, unit, ended)
        units.append(unit.name)
        if len(units) == 1:
            told["spilled"] = any(Path(os.environ["RAY_TMPDIR"]).rglob("ray_spilled_objects*/*"))
            running(WORKER)[0].send_signal(signal.SIGKILL)
        if len(units) == 2:
            cluster.remove_node(other, allow_graceful=False)

    EndedStore.enter, on_ray._tables = enter_and_kill, heavy_tables
    try:
        options = run.Options(Limits(1), cluster=on_ray.Cluster(cluster.address))
        told["exit"] = run.run_cohort(data, output, None, SETTINGS, options)
        return {**told, "studies": len(set(units)), "workers left": left()}
    finally:
        cluster.shutdown()


def running(*names: str) -> list[psutil.Process]:
    """Return the processes of this cluster that have one of these names."""
    found = []
    for one in psutil.process_iter():
        with suppress(psutil.Error):  # it has ended, or is not ours
            ours = one.environ().get("RAY_TMPDIR") == os.environ["RAY_TMPDIR"]
            if ours and any(name in " ".join(one.cmdline()) for name in names):
                found.append(one)
    return found


def left() -> int:
    """Return how many workers and processes that encode do not end by themselves."""
    end = time.monotonic() + END_S
    while (workers := running(WORKER, ENCODER)) and time.monotonic() < end:
        time.sleep(0.5)
    return len(workers)


def tables(output: Path) -> dict[str, bytes]:
    (folder,) = output.glob("*/tables")
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


if __name__ == "__main__":
    main()
