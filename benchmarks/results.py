"""Time what lies between the encoder and the user's files, beside another commit: the record, JSON and SR, the disk.

    python benchmarks/results.py --against TREE [--runs N] [--shape D H W] [--json FILE]

TREE is a checkout of that commit with an environment of its own (TREE/.venv). Each side is a warm process, both run in
turn on the same series and encode it with the same bundle. "json and sr" makes the bytes; "disk" writes them, with
fsync. Times are medians, wall clock and processor, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

from race import race

ROOT = Path(__file__).resolve().parents[1]
STEPS = ("record", "json and sr", "disk")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="checkout of another commit, with its .venv")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--shape", type=int, nargs=3, default=(100, 512, 512))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--contender", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        contend(args.contender, args.folder)
        return
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    from reading import SYNTAXES, write_series

    with tempfile.TemporaryDirectory() as folder:
        write_series(Path(folder), args.shape, SYNTAXES["native"])
        sides = {"here": ROOT, **({"other": args.against.resolve()} if args.against else {})}
        own = ["-W", "ignore", __file__, "--folder", Path(folder, "ct"), "--contender"]
        commands = {name: [tree / ".venv/bin/python", *own, tree] for name, tree in sides.items()}
        measured = race(commands, args.runs + 1)
    report(measured, args)


def contend(tree: Path, folder: Path) -> None:
    """One side: times of each step for each line on stdin."""
    out, sys.stdout = sys.stdout, sys.stderr
    sys.path[0] = str(tree)
    warnings.simplefilter("ignore")
    run = prepared(folder)
    for _ in sys.stdin:
        with tempfile.TemporaryDirectory() as target:
            print(json.dumps(run(Path(target))), file=out, flush=True)


def prepared(folder: Path):
    """The encoding of the series, and what is timed of it, under the names of this tree or of an earlier one."""
    from models.runtime import open_encoder
    from operators.build_volume import build_volume
    from operators.encode import encode
    from operators.make_record import Disclosure, make_record
    from operators.preprocess import preprocess
    from operators.read_study import read_studies

    try:
        from models.bundle.store import find_bundle, load_bundle
        from operators.results.atomic import write_together
        from operators.results.write_json import features_json
        from operators.sr.write import sr_bytes
    except ImportError:
        from models.bundle import find_bundle, load_bundle
        from operators.write_json import features_json
        from operators.write_json import write_atomically as write_together
        from operators.write_sr import sr_bytes

    bundle = load_bundle(find_bundle())
    (study,) = read_studies(folder).studies
    windows = preprocess(build_volume(study.series[0]), bundle.preprocessing)
    encoding = encode(windows, open_encoder(bundle, "cpu"), bundle)

    def run(target: Path) -> dict[str, list[float]]:
        clock = [(time.perf_counter(), time.process_time())]

        def mark() -> None:
            clock.append((time.perf_counter(), time.process_time()))

        record = make_record(encoding, bundle, Disclosure())
        mark()
        contents = {target / "features.json": features_json(record), target / "features.sr.dcm": sr_bytes(record)}
        mark()
        write_together(contents)
        mark()
        pairs = zip(STEPS, clock, clock[1:], strict=False)
        return {step: [after[k] - before[k] for k in (0, 1)] for step, before, after in pairs}

    return run


def report(measured, args) -> None:
    medians = {
        name: {step: [statistics.median(run[step][k] for run in runs[1:]) for k in (0, 1)] for step in STEPS}
        for name, runs in measured.items()
    }
    print(f"{tuple(args.shape)}, {args.runs} runs, {os.cpu_count()} cores; ms, wall clock and processor")
    for step in STEPS:
        times = "".join(f"{name:>8} {wall * 1e3:7.1f} {cpu * 1e3:7.1f}" for name, (wall, cpu) in sides(medians, step))
        ratio = ""
        if "other" in medians:
            ratio = "   ratio " + " ".join(
                f"{here / other:.3f}" for here, other in zip(medians["here"][step], medians["other"][step], strict=True)
            )
        print(f"{step:12}{times}{ratio}")
    if args.json:
        about = {"shape": args.shape, "runs": args.runs, "cores": os.cpu_count()}
        args.json.write_text(json.dumps({**about, "seconds": medians}, indent=2) + "\n")


def sides(medians, step):
    return [(name, steps[step]) for name, steps in medians.items()]


if __name__ == "__main__":
    main()
