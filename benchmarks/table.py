"""Measure time and memory of `ctvae table` over many made results, to see that memory does not grow with the rows.

    python benchmarks/table.py [--rows N ...] [--of files cohort cohort-paths] [--json FILE]

Each number of rows is a process of its own: it makes the results (not timed), reads them and writes Parquet. `files`
are `features.json` in folders; `cohort` is a partition as `ctvae cohort` writes it, the last step of which, writing its
tables, is measured too; `cohort-paths` reads it with `--with-paths`. Memory is the largest resident set of the process
while it reads and writes, less what it was before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PER_FOLDER = 1000
KINDS = ("files", "cohort", "cohort-paths")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=(1_000, 10_000, 100_000))
    parser.add_argument("--of", choices=KINDS, nargs="+", default=KINDS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--contender", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        sys.path[:0] = [str(ROOT)]
        print(json.dumps(measured(args.contender[0], int(args.contender[1]))))
        return
    results = []
    print(f"{'':14}{'rows':>9}{'seconds':>10}{'processor':>11}{'memory, MiB':>13}{'file, MB':>10}")
    for kind, rows in product(args.of, args.rows):
        own = [sys.executable, __file__, "--contender", kind, str(rows)]
        for one in json.loads(subprocess.run(own, check=True, stdout=subprocess.PIPE, text=True).stdout):
            results.append(one)
            spent = f"{one['seconds']:10.1f}{one['processor']:11.1f}{one['memory_mib']:13.0f}{one['file_mb']:10.1f}"
            print(f"{one['what']:14}{rows:9}{spent}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


def measured(kind: str, rows: int) -> list[dict[str, object]]:
    from app.table.make import TableSettings, make_table

    settings = TableSettings(with_paths=kind == "cohort-paths")
    with tempfile.TemporaryDirectory() as name:
        folder, table = Path(name), Path(name, "features.parquet")
        results = folder / "results"
        results.mkdir()

        def collect() -> None:
            made = make_table([results], table, settings, lambda done, of: None)
            assert made.rows in (10, rows)

        def write() -> None:
            make_cohort(results, rows)

        make = make_results if kind == "files" else make_cohort
        make(results, 10)
        collect()  # imports
        found = []
        if kind == "cohort":
            found.append({"what": "cohort, tables", **spent(write), "file_mb": size_mb(results)})
        else:
            make(results, rows)
        return [*found, {"what": kind, **spent(collect), "file_mb": size_mb(table)}]


def spent(work) -> dict[str, float]:
    before_mib, clock = peak_mib(reset=True), (time.perf_counter(), time.process_time())
    work()
    after = time.perf_counter() - clock[0], time.process_time() - clock[1]
    return {"seconds": after[0], "processor": after[1], "memory_mib": peak_mib() - before_mib}


def size_mb(place: Path) -> float:
    return sum(file.stat().st_size for file in (place, *place.rglob("*")) if file.is_file()) / 1e6


def make_cohort(partition: Path, rows: int) -> None:
    """As `ctvae cohort` writes them in its last step: features, failures and places, of a series each."""
    from app.cohort.ended import Ended
    from app.cohort.tables import write_tables
    from app.table.columns import Layout
    from app.table.result import result_of_document
    from operators.results.write_json import features_document
    from operators.types import Outcome
    from tests.support.sr_records import made_record

    result = result_of_document(features_document(made_record(quantities={"mean_hu": -35.5})))
    lengths = {tap: len(values) for tap, values in result.taps.items()}
    noise = np.random.default_rng(0)
    row, uid = Layout(lengths, with_paths=False).wide(result, None), result.series_instance_uid

    features = [name for name in row if name.startswith(("mu_", "sigma_"))]

    def ended() -> Iterator[Ended]:
        for number in range(rows):
            own = f"{uid}.{number}"
            outcome, place = Outcome(own, None, "", "written"), f"archive/{number // PER_FOLDER}/{number}"
            numbers = dict(zip(features, noise.random(len(features), np.float32).tolist(), strict=True))
            mine = {**row, **numbers, "series_instance_uid": own}
            yield Ended.from_body(own, None, Ended(outcome, (place,), "", result.job_key, mine, lengths).body())

    (partition / "partition.json").write_text("{}")
    write_tables(ended, partition, result.model_digest, {})


def make_results(root: Path, rows: int) -> None:
    """As `ctvae encode` writes them, of one window, each of a series of its own."""
    from operators.results.write_json import features_json
    from tests.support.sr_records import made_record

    text = features_json(made_record(quantities={"mean_hu": -35.5})).decode()
    uid = json.loads(text)["series"]["series_instance_uid"]
    for row in range(rows):
        folder = root / f"{row // PER_FOLDER}" / f"{row}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "features.json").write_text(text.replace(uid, f"{uid}.{row}"))


def peak_mib(reset: bool = False) -> float:
    """Largest resident set of this process in MiB, since the last reset (proc(5), clear_refs)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
