"""Works and sends what a queue holds until nothing is left, in a process that a test may kill at a named moment."""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy import select, update

from app.pacs import hooks
from app.pacs.backoff import Backoff
from app.pacs.database.engine import Database, open_database
from app.pacs.database.tables import delivery, job, now
from app.pacs.deliver import Deliverer
from app.pacs.destination import Destination
from app.pacs.places import Places
from app.pacs.worker import Worker
from app.pacs.worker_settings import WorkerSettings
from tests.support.checkout import ROOT
from tests.support.queued import SR_CLASSES
from tests.support.waiting import PATIENCE_S

SR = ROOT / "tests" / "data" / "sr_version_0.1.dcm"
CHILD = """
import json, os, shutil, sys
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    names = sorted(os.listdir(asked["input"]))
    shutil.copy(sys.argv[1], os.path.join(asked["output"], "features.sr.dcm"))
    before = asked["predecessors"]
    made = {"part": None, "job_key": "key", "sr_class": "comprehensive_3d", "rank": 0, "sop_class_uid": sys.argv[2],
            "sop_uid": sys.argv[3], "predecessor": before[-1][2] if before else None, "path": "features.sr.dcm"}
    outcome = {"part": None, "status": "written", "reason": None, "message": None, "files": names}
    print(json.dumps({"output": asked["output"], "outcomes": [outcome], "made": [made]}), flush=True)
"""


def work_and_send(folder: str, port: int, sop_uid: str, kill_at: str = "", url: str = "") -> None:
    """Run until nothing is left; a job or a delivery that somebody else holds is waited for.

    Args:
        folder: of the listener.
        port: of the destination on loopback.
        sop_uid: of the SR file that the child, which encodes nothing, copies.
        kill_at: the moment at which the process ends.
        url: of the database; that of the folder where it is empty.
    """
    hooks._NAME, hooks._TIME = kill_at, "1"
    logging.disable(logging.CRITICAL)
    places = Places(Path(folder))
    database = open_database(url or places.database_url)
    to = Destination("PACS", ae_title="PACS", port=port, timeout_s=PATIENCE_S, backoff=Backoff(0.05, 0.1))
    program = ("-c", CHILD, str(SR), SR_CLASSES["comprehensive_3d"], sop_uid)
    settings = WorkerSettings(lease_s=PATIENCE_S)
    worker = Worker(database, places, settings, lambda source_ae: ["PACS"], program=program)
    sender = Deliverer(database, places, to, "CTVAE")
    while something_left(database):
        if not (worker.work_one() or sender.deliver_one()):
            sender.service.wake.wait(0.05)
    worker._child.end()
    database.close()


def something_left(database: Database) -> bool:
    open_jobs = select(job.c.id).where(job.c.state.in_(("waiting", "leased")))
    unsent = select(delivery.c.id).where(delivery.c.state.in_(("waiting", "sending")))
    with database.read() as connection:
        return any(connection.execute(query.limit(1)).first() for query in (open_jobs, unsent))


def let_leases_run_out(database: Database, process: int) -> None:
    """Let the time of what a process holds, which was killed, have passed: its job, and each delivery."""
    with database.begin() as connection:
        over = {"lease_until": now() - 1}
        connection.execute(update(job).where(job.c.worker.endswith(f":{process}")).values(over))
        connection.execute(update(delivery).where(delivery.c.state == "sending").values(over))
