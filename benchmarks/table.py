"""Measure memory, time and disk of `ctvae table` and of all but the encoding in `ctvae cohort`, up to a million series.

    python benchmarks/table.py [--rows N ...] [--of files cohort] [--folder DIR] [--keep] [--json FILE]

`files` are `features.json` as `ctvae encode` writes them, each of a series of its own with random features. `cohort` is
`ctvae cohort` over as many DICOM files of a header alone, one per series and ten series per study: listing, index,
database and tables are those of the command, only its processes do not encode but answer with random features (every
tenth series is rejected). Then the command runs once more, unchanged, and `ctvae table` reads its folder.

Each line of a command is a process of its own. Memory is the largest resident set of one process (the kernel's,
`wait4`; of a stage, `VmHWM` reset at its start); temporary is the most that its deleted open files take at one time.
A million series take 13 GB below --folder (or TMPDIR) while they are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PER_FOLDER, PER_STUDY, REJECTED_EVERY = 1000, 10, 10
KINDS = ("files", "cohort")
TICK_S = 0.2
UID = "1.2.826.0.1.3680043.10.1.7"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=(1_000, 10_000, 100_000))
    parser.add_argument("--of", choices=KINDS, nargs="+", default=KINDS)
    parser.add_argument("--folder", type=Path, help="a folder for what is made, on the disk that is to be measured")
    parser.add_argument("--keep", action="store_true", help="leave what was made there, and take what is there already")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT)]
    if args.step:
        name, folder, rows = args.step
        STEPS[name](Path(folder), int(rows))
        return
    results: list[dict[str, Any]] = []
    print(f"{'':28}{'rows':>10}{'seconds':>9}{'processor':>11}{'memory, MiB':>13}{'temporary, MB':>15}{'made, MB':>10}")
    for kind, rows in product(args.of, args.rows):
        with place(args.folder, f"{kind}-{rows}", keep=args.keep) as folder:
            for one in (of_files if kind == "files" else of_cohort)(folder, rows):
                results.append({"of": kind, "rows": rows, **one})
                spent = f"{one['seconds']:9.1f}{one['processor']:11.1f}{one['memory_mib']:13.0f}"
                print(
                    f"{one['what']:28}{rows:10}{spent}{one['temporary_mb']:15.1f}{one['made_mb']:10.1f}",
                    flush=True,
                )
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


@contextmanager
def place(parent: Path | None, name: str, *, keep: bool) -> Iterator[Path]:
    if keep and parent:
        (parent / name).mkdir(parents=True, exist_ok=True)
        yield parent / name
        return
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)


def of_files(folder: Path, rows: int) -> Iterator[dict[str, Any]]:
    results = folder / "results"
    if not results.exists():
        step("files", folder, rows)
    for what, file, options in (
        ("files → Parquet", "t.parquet", ()),
        ("files → CSV", "t.csv", ()),
        ("files → Parquet, --long", "long.parquet", ("--long",)),
    ):
        yield {"what": what, **command(folder / file, "table", results, "-o", folder / file, *options)}


def of_cohort(folder: Path, rows: int) -> Iterator[dict[str, Any]]:
    data, output = folder / "data", folder / "out"
    if not data.exists():
        step("data", folder, rows)
    if not output.exists():
        yield from step("cohort", folder, rows)
    yield {"what": "cohort, second run", **command(output / "index", "cohort", data, "-o", output)}
    for what, file, options in (
        ("cohort → Parquet", "t.parquet", ()),
        ("cohort → Parquet, with paths", "paths.parquet", ("--with-paths",)),
        ("cohort → CSV", "t.csv", ()),
    ):
        yield {"what": what, **command(folder / file, "table", output, "-o", folder / file, *options)}


def step(name: str, folder: Path, rows: int) -> list[dict[str, Any]]:
    own = [sys.executable, __file__, "--step", name, str(folder), str(rows)]
    lines = subprocess.run(own, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def command(made: Path, *arguments: object) -> dict[str, Any]:
    """Run `ctvae` in a process of its own; return what it took."""
    own = [str(Path(sys.executable).with_name("ctvae")), *map(str, arguments)]
    began, temporary = time.perf_counter(), 0
    process = subprocess.Popen(own, cwd=ROOT, stdout=subprocess.DEVNULL)
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        temporary = max(temporary, deleted_bytes(process.pid))
        time.sleep(TICK_S)
    _, status, usage = ended
    assert os.waitstatus_to_exitcode(status) == 0, f"{own} ended with {os.waitstatus_to_exitcode(status)}"
    return {
        "seconds": time.perf_counter() - began,
        "processor": usage.ru_utime + usage.ru_stime,
        "memory_mib": usage.ru_maxrss / 1024,
        "temporary_mb": temporary / 1e6,
        "made_mb": size_mb(made),
    }


def deleted_bytes(process: int | str) -> int:
    """Return how much of the disk the open files of a process take that have no name any more."""
    total = 0
    with suppress(OSError):
        for handle in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                if handle.readlink().name.endswith(" (deleted)"):
                    total += handle.stat().st_blocks * 512
    return total


def size_mb(place: Path) -> float:
    return sum(file.stat().st_size for file in (place, *place.rglob("*")) if file.is_file()) / 1e6


def make_files(folder: Path, rows: int) -> None:
    """Make `features.json` as `ctvae encode` writes them, of one window."""
    from operators.results.write_json import features_json
    from tests.support.sr_records import made_record

    text = features_json(made_record(quantities={"mean_hu": -35.5})).decode()
    document, noise = json.loads(text), np.random.default_rng(0)
    shown = {tap: json.dumps(document["taps"][tap]["values"], indent=1).replace("\n", "\n   ") for tap in TAPS}
    for row in range(rows):
        mine = text.replace(f'{UID}"', f'{UID}.{row}"').replace(document["job_key"], f"{row:064x}")
        numbers = noise.random((len(TAPS), document["taps"]["mu"]["length"]), np.float32)
        for tap, values in zip(TAPS, numbers, strict=True):
            mine = mine.replace(shown[tap], f"[{', '.join(map(str, values))}]", 1)
        file = folder / "results" / f"{row // PER_FOLDER:04}" / f"{row:07}" / "features.json"
        file.parent.mkdir(parents=True)
        file.write_text(mine)


TAPS = ("mu", "sigma")


def make_data(folder: Path, rows: int) -> None:
    """Make DICOM files of a header alone, of a series each."""
    from io import BytesIO

    from pydicom import Dataset, dcmwrite
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    header = Dataset()
    header.SOPClassUID, header.Modality = CTImageStorage, "CT"
    header.SOPInstanceUID, header.StudyInstanceUID, header.SeriesInstanceUID = (f"{UID}.{n}.1000000" for n in (1, 2, 3))
    header.file_meta = meta = Dataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dcmwrite(buffer, header, enforce_file_format=True)
    content = buffer.getvalue()
    for row in range(rows):
        mine = content
        for n, number in ((1, row), (2, row // PER_STUDY), (3, row)):
            mine = mine.replace(f"{UID}.{n}.1000000".encode(), f"{UID}.{n}.{number + 1_000_000:07}".encode())
        file = folder / "data" / f"{row // PER_FOLDER:04}" / f"{row:07}.dcm"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(mine)


def make_cohort(folder: Path, rows: int) -> None:
    """Run `ctvae cohort`, with features that are made up; print what each of its stages takes."""
    from app.cohort import run
    from app.cohort.local import Limits, Team
    from app.cohort.source import Source
    from app.process import LogLevel, set_up_log
    from app.settings import load_settings

    set_up_log(LogLevel.ERROR)
    Team.encode = made_up  # type: ignore[method-assign,assignment]
    stages = (
        (Source, "count", "cohort, list files"),
        (run, "bring_up_to_date", "cohort, index"),
        (run, "_look", "cohort, what is to be done"),
        (Team, "encode", "cohort, enter results"),
        (run, "_write", "cohort, tables"),
    )
    for owner, name, what in stages:
        setattr(owner, name, shown(getattr(owner, name), what, folder / "out"))
    options = run.Options(Limits(run.cores()))
    run.run_cohort(folder / "data", folder / "out", None, load_settings(None), options)


def shown(stage: Callable[..., Any], what: str, output: Path) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
        before = size_mb(output)
        began, clock = time.perf_counter(), time.process_time()
        result = stage(*args)
        memory = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
        took = {"seconds": time.perf_counter() - began, "processor": time.process_time() - clock}
        left = {"memory_mib": memory, "temporary_mb": 0.0, "made_mb": size_mb(output) - before}
        print(json.dumps({"what": what, **took, **left}), flush=True)
        return result

    return run


def made_up(team: object, units: Iterable[Any], work: object, on_ended: Callable[..., None]) -> None:
    """Answer as the processes of a cohort do."""
    from app.cohort.ended import Ended
    from app.table.columns import Layout
    from app.table.result import result_of_document
    from operators.results.write_json import features_document
    from operators.types import Outcome
    from tests.support.sr_records import made_record

    result = result_of_document(features_document(made_record(quantities={"mean_hu": -35.5})))
    lengths = {tap: len(values) for tap, values in result.taps.items()}
    row, noise, number = Layout(lengths, with_paths=False).wide(result, None), np.random.default_rng(0), 0
    features = [name for name in row if name.startswith(tuple(f"{tap}_" for tap in TAPS))]
    for unit in units:
        ended = []
        for uid, places in unit.series().items():
            number += 1
            numbers = dict(zip(features, noise.random(len(features), np.float32).tolist(), strict=True))
            mine = {**row, **numbers, "series_instance_uid": uid, "study_instance_uid": unit.files[0].study}
            if number % REJECTED_EVERY:
                outcome = Outcome(uid, None, places[0], "written")
                ended.append(Ended(outcome, places, unit.files[0].study, f"{number:064x}", mine, lengths))
            else:
                outcome = Outcome(uid, None, places[0], "rejected", "TOO_FEW_SLICES", "1 slice; expected at least 3")
                ended.append(Ended(outcome, places, unit.files[0].study))
        on_ended(unit, ended)


STEPS = {"files": make_files, "data": make_data, "cohort": make_cohort}

if __name__ == "__main__":
    main()
