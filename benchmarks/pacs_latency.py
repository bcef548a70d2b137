"""From a series' last slice to its SR in Orthanc: `ctvae listen` with the shipped bundle, model warm.

    python benchmarks/pacs_latency.py [--slices 100] [--repeats 5] [--quiet-s 3]

Sent by DCMTK's storescu; 512² slices of a phantom. Bar: quiet time + 2 s. Needs DCMTK and Orthanc.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

from pacs_scene import PORT, Running, inside, listening, load, reports, to_orthanc, until
from sqlalchemy import select

from app.pacs.database.tables import delivery, job, series
from models.phantom import PhantomFactors, make_phantom
from operators.synthetic.write_ct import CtOptions, affine_for, write_ct_series
from tests.support.orthanc import orthanc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quiet-s", type=float, default=3.0)
    asked = parser.parse_args()
    shape, spacing_mm = (asked.slices, 512, 512), (250 / asked.slices, 0.7, 0.7)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "orthanc").mkdir()
        hu = make_phantom(PhantomFactors(), shape=shape, spacing_mm=spacing_mm, seed=1)
        sets = [folder / f"ct{number}" for number in range(asked.repeats + 1)]
        for number, one in enumerate(sets):
            write_ct_series(hu, affine_for(shape, spacing_mm), one, CtOptions(study_id=str(number)))
        settings = {"quiet_s": asked.quiet_s, "destinations": [to_orthanc()]}
        with orthanc(folder / "orthanc"), listening(folder, **settings) as running:
            print(f"first one: {measured(running, sets[0], 1)[0]:.2f} s", flush=True)
            took = []
            for number, one in enumerate(sets[1:], start=2):
                took.append(measured(running, one, number))
                print("{:.2f} s: handed over after {:.2f}, encoded {:.2f}, sent {:.2f}".format(*took[-1]), flush=True)
    over = [one[0] - asked.quiet_s for one in took]
    print(f"{asked.slices} slices, quiet time {asked.quiet_s:g} s + {min(over):.2f} to {max(over):.2f} s", end="")
    print(f", median {median(over):.2f}; {load()}")


def measured(running: Running, slices: Path, nth: int) -> tuple[float, float, float, float]:
    """Seconds from the last slice to the SR in Orthanc: in all, until it was handed over, of encoding, of sending."""
    command = ["/usr/bin/storescu", "-aec", "CTVAE", "127.0.0.1", str(PORT), "+sd", slices]
    subprocess.run(command, check=True, env={**os.environ, "TCP_NODELAY": "1"})
    until(lambda: running.count(delivery.c.state == "sent") == nth, 120, 0.05)
    assert len(reports()) == nth
    (last,) = running.rows(select(series.c.last_at).order_by(series.c.id.desc()).limit(1))[0]
    of = job.c.created_at, job.c.ended_at, delivery.c.sent_at
    made, ended, sent = running.rows(select(*of).join(delivery).order_by(job.c.id.desc()).limit(1))[0]
    assert sent <= time.time()
    return sent - last, made - last, ended - made, sent - ended


if __name__ == "__main__":
    inside(main)
