"""Fuzz the reader: change files at random and check that a result or one of our errors comes out.

    python benchmarks/fuzz.py [--seconds N] [--seed S] [--first I] [--synthetic] [--json FILE]

A case is identified by seed and index: `--seed 7 --first 1234 --seconds 1` repeats it, and `--first` continues an
interrupted run. Cases run in a separate process with a memory limit, so a crash of a decoder or a hang is counted and
the run goes on. Exit code 1 if a case is a defect: a crash, more than 60 s, more than 1 GiB above the imports, or an
error without a code.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.fuzzing import REAL, Result, Worker  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="index of the first case")
    parser.add_argument("--synthetic", action="store_true", help="without the real CT in ../shared/ct")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    worker = Worker(args.seed, REAL.exists() and not args.synthetic)
    end, index, results = time.monotonic() + args.seconds, args.first, []
    while time.monotonic() < end:
        results.append(worker.run(index))
        if results[-1].defect:
            print(f"--seed {args.seed} --first {index}: {results[-1].name}: {results[-1].defect}", flush=True)
        index += 1
    worker.close()
    told = report(results, args.seconds)
    print(f"next: --seed {args.seed} --first {index}")
    if args.json:
        args.json.write_text(json.dumps({"seed": args.seed, "first": args.first, **told}, indent=2) + "\n")
    return int(told["defects"] > 0)


def report(results: list[Result], seconds: float) -> dict[str, object]:
    files = sum(one.files for one in results)
    outcomes = Counter(outcome.split()[0] for one in results for outcome in one.outcomes)
    told = {
        "cases": len(results),
        "files": files,
        "files_per_second": round(files / seconds, 1),
        "slowest_s": round(max(one.seconds for one in results), 2),
        "peak_mib": max(one.peak_mib for one in results),
        "defects": sum(bool(one.defect) for one in results),
        "outcomes": dict(outcomes.most_common()),
    }
    for key, value in told.items():
        if key != "outcomes":
            print(f"{key:18} {value}")
    for outcome, count in outcomes.most_common():
        print(f"  {outcome:32} {count:8}")
    return told


if __name__ == "__main__":
    sys.exit(main())
