"""Measure the cold start by stage: `python -m app` on a small series, in a new process each time.

    python benchmarks/cold_start.py [--runs N] [--json FILE]

Files are in the page cache and modules are compiled; times are medians. The last line is the time of
`import monai.deploy.core` alone, which the graph avoids: it takes the classes from where that module has them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

STAGED = """
import sys, time
times = [time.time()]
mark = lambda: times.append(time.time())
folder, out, began = sys.argv[1], sys.argv[2], float(sys.argv[3])
from pathlib import Path
import app.ledger, app.open_pipeline, app.read_input, app.settings, app.process
mark()
settings = app.settings.load_settings(None)
paths = app.settings.check_paths(Path(folder), Path(out), None)
pipeline = app.open_pipeline.open_pipeline(settings, paths.models, paths.output)
mark()
from app.application import CtVaeApplication
mark()
opened = app.read_input.open_series
with app.ledger.Ledger(paths.output) as ledger, opened(paths.input, settings, ledger.enter_inventory) as jobs:
    CtVaeApplication(jobs, pipeline, ledger.enter).run()
mark()
assert [outcome.status for outcome in ledger.outcomes] == ["written"]
print("STAGES", *(after - before for before, after in zip([began, *times], times)))
"""
STAGES = ("interpreter", "imports", "settings, bundle, ONNX session", "graph: import", "graph: one series", "exit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    from reading import SYNTAXES, write_series

    staged, whole, sdk = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        write_series(Path(folder), (40, 128, 128), SYNTAXES["native"])
        ct, out = Path(folder, "ct"), Path(folder, "out")
        for run in range(args.runs + 1):
            staged.append(measure_stages(ct, out / f"{run}"))
            whole.append(timed(["-m", "app", "-i", ct, "-o", out / f"w{run}"]))
            sdk.append(timed(["-c", "import monai.deploy.core"]))
    rows = dict(zip(STAGES, np.median(staged[1:], axis=0).tolist(), strict=True))
    rows["python -m app, whole"] = statistics.median(whole[1:])
    rows["import monai.deploy.core"] = statistics.median(sdk[1:])
    print(f"40 slices of 128², {args.runs} runs, {os.cpu_count()} cores")
    for name, seconds in rows.items():
        print(f"{name:34}{seconds:8.2f} s")
    if args.json:
        args.json.write_text(json.dumps({"runs": args.runs, "cores": os.cpu_count(), "seconds": rows}, indent=2) + "\n")


def measure_stages(ct: Path, out: Path) -> list[float]:
    out.mkdir(parents=True)
    began = time.time()
    program = [sys.executable, "-W", "ignore", "-c", STAGED, ct, out, repr(began)]
    ended = subprocess.run(program, cwd=ROOT, check=True, capture_output=True, text=True)
    total = time.time() - began
    stages = [float(part) for part in ended.stdout.split("STAGES")[1].split()]
    return [*stages, total - sum(stages)]


def timed(command: list[str | Path]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", *command], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
