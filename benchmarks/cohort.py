"""Measure `ctvae cohort` on many series: workers, engines, and a loop over the SDK, MONAI and torch.

    python benchmarks/cohort.py [--series 200] [--sample 10] [--slices 60] [--only NAME …] [--json FILE]

The series are phantoms of 512² slices, a study each, written once (not timed) and read from the page cache. Each
contender is one command in a new process, from its start to its end, tables included:

- `one core`: `ctvae cohort --workers 1`, pinned to one core
- `local`: one worker per core
- `ray`: `--engine ray` on a local Ray cluster, in a network namespace that has nothing but loopback; starting the
  cluster is not timed
- `parts`: what one worker and the parent do for each study, measured apart, on `--sample` × 4 studies
- `SDK loop`: on `--sample` series, the SDK's operators, MONAI's transforms and torch with a thread per core, warm, and
  without writing anything; its time is scaled to all series

The tables of all runs of ours must be the same bytes. `benchmarks/cohort_simulation.py` reads the file of `--json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
from alone import alone

if TYPE_CHECKING:
    from app.cohort.look import Chunk, Looked

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
OURS = ("one core", "local", "ray")
CONTENDERS = (*OURS, "parts", "SDK loop")
SIDE = 512
SPACING_MM = (5.0, 0.7, 0.7)
KEY = {**os.environ, "CTVAE_SITE_KEY": "benchmark"}
CTVAE = "import sys; from app.cli import main; sys.exit(main())"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--sample", type=int, default=10)
    parser.add_argument("--slices", type=int, default=60)
    parser.add_argument("--only", choices=CONTENDERS, nargs="+", default=CONTENDERS)
    parser.add_argument("--folder", type=Path, help="keep the series here, and use those that are there")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", choices=(*INSIDE, "ray"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside == "ray":
        print(json.dumps(on_ray(args.folder, args.json)))
        return
    if args.inside:
        out, sys.stdout = sys.stdout, sys.stderr
        found = INSIDE[args.inside](sorted(args.folder.iterdir())[: args.sample])
        print(json.dumps(found), file=out)
        return
    with tempfile.TemporaryDirectory() as temporary:
        data = args.folder or Path(temporary, "data")
        write_cohort(data, args.series, args.slices)
        results = {name: measured(name, data, Path(temporary, name.replace(" ", "-")), args) for name in args.only}
    report(results, args)


def write_cohort(folder: Path, series: int, slices: int) -> None:
    """A study each; ten different phantoms, each series with noise of its own."""
    from models.phantom import PhantomFactors, phantom_slices
    from operators.synthetic.write_ct import CtOptions, affine_for, write_ct_series

    shape = (slices, SIDE, SIDE)
    affine = affine_for(shape, SPACING_MM)
    phantoms: list[np.ndarray] = []
    for number in range(series):
        if (folder / f"{number:05d}" / f"{slices:04d}.dcm").exists():
            continue
        if not phantoms:
            factors = [PhantomFactors(body_width_mm=300 + 8 * k, emphysema_fraction=0.02 * k) for k in range(10)]
            phantoms = [np.stack(list(phantom_slices(one, shape, SPACING_MM))) for one in factors]
        noise = np.random.default_rng(number).integers(-20, 21, (SIDE, SIDE)).astype(np.int16)
        options = CtOptions(patient_id=f"P{number}", study_id=str(number))
        write_ct_series(phantoms[number % 10] + noise, affine, folder / f"{number:05d}", options)


def measured(name: str, data: Path, output: Path, args: argparse.Namespace) -> dict[str, object]:
    if name in INSIDE:
        sample = args.sample * (4 if name == "parts" else 1)
        own = [sys.executable, "-W", "ignore", __file__, "--inside", name, "--folder", data, "--sample", sample]
        found = timed(own)
        return {**found, **json.loads(found.pop("said"))}
    cohort = [sys.executable, "-c", CTVAE, "cohort", data, "-o", output, "--workers"]
    if name == "one core":
        found = timed(["taskset", "--cpu-list", "0", *cohort, 1])
    elif name == "local":
        found = timed([*cohort, cores()])
    else:
        own = [*alone(), sys.executable, "-W", "ignore", __file__, "--inside", name, "--folder", data, "--json", output]
        found = json.loads(timed(own)["said"])
    return {**found, "tables": digest(output)}


def on_ray(data: Path, output: Path) -> dict[str, object]:
    """Run in a network namespace that has nothing but loopback, for Ray listens on every address."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="r") as name:  # a short one, for sockets lie in it
        os.environ |= {"RAY_TMPDIR": name, "RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
        node = {"num_cpus": cores(), "include_dashboard": False, "node_ip_address": "127.0.0.1", "no_monitor": True}
        node |= {"include_log_monitor": False}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        busy = processor_of_ray()
        try:
            command = [sys.executable, "-c", CTVAE, "cohort", data, "-o", output, "--engine", "ray"]
            found = timed([*command, "--ray-address", cluster.address])
            return {**found, "processor": found["processor"] + processor_of_ray() - busy}
        finally:
            cluster.shutdown()


def processor_of_ray() -> float:
    """Processor seconds of the cluster's processes, its workers and what they started among them."""
    import psutil

    children = psutil.Process().children(recursive=True)
    times = [one.cpu_times() for one in children]
    return sum(one.user + one.system + one.children_user + one.children_system for one in times)


def timed(command: list[object]) -> dict[str, object]:
    """Wall clock and the processor time of all its processes, in seconds; the last line that it wrote."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    said = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=KEY, stdout=subprocess.PIPE, text=True, check=True
    )
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "processor": processor, "said": said.stdout.splitlines()[-1]}


def cores() -> int:
    return len(os.sched_getaffinity(0))


def digest(output: Path) -> str:
    (tables,) = output.glob("*/tables")
    whole = hashlib.sha256()
    for file in sorted(tables.rglob("*")):
        if file.is_file():
            whole.update(file.read_bytes())
    return whole.hexdigest()


def sdk_loop(folders: list[Path]) -> dict[str, object]:
    """Seconds of each series; the first warms up and does not count."""
    from whole_path import theirs_to_mu

    (encode, _), each, processor = theirs_to_mu(), [], []
    for folder in [folders[0], *folders]:
        start, clock = time.perf_counter(), Clock()
        encode(folder, [])
        each.append(time.perf_counter() - start)
        processor.append(clock.lap())
    return {"each": each[1:], "processor of each": processor[1:]}


def parts(folders: list[Path]) -> dict[str, object]:
    """What a run is made of: seconds of the index, of each unit in its worker, and of the parent per unit.

    `look` is what workers do for the index, `index` what is left to the parent.
    """
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    clock = Clock()
    from app.cohort.encode_unit import encode_unit
    from app.cohort.ended import EndedStore
    from app.cohort.index import bring_up_to_date
    from app.cohort.partition import open_partition, work_of
    from app.cohort.source import open_source
    from app.cohort.tables import write_tables
    from app.open_pipeline import open_pipeline
    from app.settings import load_settings
    from operators import job

    job.time = SimpleNamespace(perf_counter=time.process_time)  # what the stages are timed by
    settings = load_settings(None)
    pipeline = open_pipeline(settings, None, None)
    found: dict[str, object] = {"start of a worker": clock.lap()}
    with tempfile.TemporaryDirectory() as name:
        for chosen, output in ((folders[:1], Path(name, "warm")), (folders, Path(name, "out"))):
            output.mkdir()
            listed = Path(name, f"{output.name}.csv")
            listed.write_text("path\n" + "".join(f"{folder}\n" for folder in chosen))
            source = open_source(listed, output)
            looked: list[float] = []
            clock.lap()
            index = bring_up_to_date(source, output, partial(look_timed, looked))
            found["look"] = sum(looked)
            found["index"] = clock.lap() - found["look"]
        partition = open_partition(output, settings, pipeline, "none")
        work = work_of(source, settings, None, pipeline, partition, "none")
        with closing(EndedStore(Path(name, "ended.sqlite"))) as store:
            units = list(index.units())
            encode_unit(units[0], work, pipeline)  # imports, and the first run of the network
            encoded, entered, stages = [], [], []
            for unit in units:
                clock.lap()
                ended = encode_unit(unit, work, pipeline)
                encoded.append(clock.lap())
                store.enter(unit, ended)
                entered.append(clock.lap())
                stages.append(dict(ended[0].outcome.seconds))
            for _ in range(2):  # the first imports
                clock.lap()
                write_tables(store.all, partition.folder, work.weights_sha256, {})
                found["tables"] = clock.lap()
        sizes = {file.name: file.stat().st_size for file in (output / "files.parquet", Path(name, "ended.sqlite"))}
        sizes["features"] = sum(file.stat().st_size for file in partition.folder.glob("tables/features/*"))
    files = [file.stat().st_size for folder in folders for file in folder.iterdir()]
    about = {"studies": len(units), "files": len(files), "bytes": sum(files), "sizes": sizes}
    return {**found, **about, "encode": encoded, "enter": entered, "stages": stages}


def look_timed(seconds: list[float], chunks: Iterator[Chunk]) -> Iterator[tuple[Chunk, Looked]]:
    """Look at chunks in this process, and note the processor time of each."""
    from app.cohort.look import look

    for chunk in chunks:
        clock = Clock()
        looked = look(chunk)
        seconds.append(clock.lap())
        yield chunk, looked


class Clock:
    """Processor seconds of this process, which other programs on the machine do not change much."""

    def __init__(self) -> None:
        self.last = time.process_time()

    def lap(self) -> float:
        """Seconds since the last call."""
        before, self.last = self.last, time.process_time()
        return self.last - before


INSIDE = {"parts": parts, "SDK loop": sdk_loop}


def report(results: dict[str, dict[str, object]], args: argparse.Namespace) -> None:
    print(f"{args.series} studies of {args.slices} × {SIDE} × {SIDE}, native, {cores()} cores")
    rows = {name: (one["seconds"], one["processor"]) for name, one in results.items() if name in OURS}
    if "SDK loop" in results:
        means = [statistics.mean(results["SDK loop"][what]) for what in ("each", "processor of each")]
        rows["SDK loop"] = means[0] * args.series, means[1] * args.series
    base = rows.get("local", next(iter(rows.values()), None))
    print(f"{'':<10}{'s':>8}{'studies/min':>13}{'÷ local':>9}{'processor, s':>14}{'÷ local':>9}")
    for name, (seconds, busy) in rows.items():
        pace = f"{seconds:8.1f}{60 * args.series / seconds:13.0f}{seconds / base[0]:9.2f}"
        print(f"{name:<10}{pace}{busy:14.1f}{busy / base[1]:9.2f}")
    tables = {results[name]["tables"] for name in rows if name in OURS}
    print("tables of all runs: " + ("the same bytes" if len(tables) == 1 else f"{len(tables)} DIFFERENT ones"))
    if "parts" in results:
        show_parts(results["parts"])
    if args.json:
        about = {"series": args.series, "slices": args.slices, "cores": cores()}
        args.json.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


def show_parts(parts: dict[str, object]) -> None:
    studies, files = parts["studies"], parts["files"]
    stages = {name: statistics.median(one[name] for one in parts["stages"]) for name in parts["stages"][0]}
    print(
        f"one worker on one core, {studies} studies of {parts['bytes'] / studies / 1e6:.1f} MB; processor ms, medians:"
    )
    encode = statistics.median(parts["encode"])
    within = {"headers, row": encode - sum(stages.values()), **stages}
    print(f"  a study {1e3 * encode:.1f}: " + ", ".join(f"{name} {1e3 * value:.1f}" for name, value in within.items()))
    print(
        f"  index, per file: {1e3 * parts['look'] / files:.2f} in a worker, "
        f"{1e3 * parts['index'] / files:.2f} in the parent"
    )
    print(
        f"  parent, per study: enter {1e3 * statistics.median(parts['enter']):.2f}, "
        f"tables {1e3 * parts['tables'] / studies:.2f}"
    )
    print(f"  start of a worker {parts['start of a worker']:.1f} s")
    print("  bytes per study: " + ", ".join(f"{name} {size / studies:.0f}" for name, size in parts["sizes"].items()))


if __name__ == "__main__":
    main()
