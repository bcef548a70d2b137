"""`kill -9` at every fsync, rename and commit of the arrival: nothing acknowledged is lost, nothing is queued twice.

The page cache survives a kill; what a power loss leaves is tried by benchmarks/pacs_power_loss.py.
"""

from __future__ import annotations

import os

import pytest
from pydicom import dcmread
from sqlalchemy import func, select

from app.pacs.database.tables import instance, job, job_instance, series
from tests.support.arrival import COMPLETE, arrival, forking
from tests.support.listeners import associate
from tests.support.waiting import until

RECEIVING = (
    *("mkdir.after", "fsync.before", "fsync.after", "rename.before", "rename.after", "fsync_folder.after"),
    *("commit.before", "commit.after"),
)
MOMENTS = [f"receive.{moment}{'' if moment == 'mkdir.after' else ':2'}" for moment in RECEIVING]
COMPLETING = ["complete.commit.before", "complete.commit.after"]


def acknowledged(port, slices):
    """UIDs of the slices for which the peer said 0000, until it was gone."""
    assoc = associate(port, calling="SENDER")
    done = set()
    for path in slices:
        dataset = dcmread(path)
        try:
            status = assoc.send_c_store(dataset).get("Status")
        except RuntimeError:  # the association is gone
            return done
        if status is None:  # the peer is; pynetdicom would wait for its next answer all the same
            assoc.abort()
            return done
        if status == 0:
            done.add(str(dataset.SOPInstanceUID))
    assoc.release()
    return done


@pytest.fixture(scope="module")
def start():
    with forking() as started:
        yield started


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# pynetdicom's requestor leaves its socket to the garbage collection where the other side is gone.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("moment", [*MOMENTS, *COMPLETING])
def test_a_kill_at_each_moment_loses_nothing_and_doubles_nothing(start, tmp_path, slices, moment):
    pid, port = start(tmp_path, moment)
    kept = acknowledged(port, slices)
    if moment in COMPLETING:
        assert len(kept) == 3
        os.kill(pid, COMPLETE)
    until(lambda: is_gone(pid))
    assert moment in COMPLETING or len(kept) < 3

    with arrival(tmp_path) as (here, completer):
        assert kept <= {row.sop_uid for row in here.rows(instance)}
        assert sorted(row.path for row in here.rows(instance)) == here.files()
        assert here.half_arrived() == []
        assert len(acknowledged(here.port, slices)) == 3
        completer.step()
        assert [row.state for row in here.rows(series)] == ["queued"]
        (row,), jobs = here.rows(series), [one for one in here.rows(job) if one.state != "superseded"]
        with here.database.read() as connection:
            (listed,) = connection.execute(select(func.count()).where(job_instance.c.job_id == jobs[0].id)).one()
    assert len(jobs) == 1 and (jobs[0].source_ae, listed, len(here.files())) == ("SENDER", 3, 3)
    assert row.revision == 1 or moment not in COMPLETING
