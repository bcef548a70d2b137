"""Measure time and memory of `ctvae table` over many made results, to see that memory does not grow with the rows.

    python benchmarks/table.py [--rows N ...] [--json FILE]

Each number of rows is a process of its own: it makes the results (not timed), reads them and writes Parquet. Memory is
the largest resident set of the process while it reads and writes, less what it was before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PER_FOLDER = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=(1_000, 10_000, 100_000))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--contender", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        sys.path[:0] = [str(ROOT)]
        print(json.dumps(measured(args.contender)))
        return
    results = []
    print(f"{'rows':>9}{'seconds':>10}{'processor':>11}{'memory, MB':>12}{'file, MB':>10}")
    for rows in args.rows:
        own = [sys.executable, __file__, "--contender", str(rows)]
        one = json.loads(subprocess.run(own, check=True, stdout=subprocess.PIPE, text=True).stdout)
        results.append(one)
        print(f"{rows:9}{one['seconds']:10.1f}{one['processor']:11.1f}{one['memory_mb']:12.0f}{one['file_mb']:10.1f}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


def measured(rows: int) -> dict[str, float]:
    from app.table.make import TableSettings, make_table

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "features.parquet")
        make_results(Path(folder, "results"), 10)
        make_table([Path(folder, "results")], table, TableSettings(), lambda done, of: None)  # imports
        make_results(Path(folder, "results"), rows)
        before_mb, clock = peak_mb(reset=True), (time.perf_counter(), time.process_time())
        made = make_table([Path(folder, "results")], table, TableSettings(), lambda done, of: None)
        after = time.perf_counter(), time.process_time()
        assert made.rows == rows
        return {
            "rows": rows,
            "seconds": after[0] - clock[0],
            "processor": after[1] - clock[1],
            "memory_mb": peak_mb() - before_mb,
            "file_mb": table.stat().st_size / 1e6,
        }


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


def peak_mb(reset: bool = False) -> float:
    """Largest resident set of this process in MB, since the last reset (proc(5), clear_refs)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
