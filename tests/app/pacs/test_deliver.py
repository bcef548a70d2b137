"""What waits is sent until the peer says that it has it, and no destination delays another."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.pacs import deliveries
from app.pacs.backoff import Backoff
from app.pacs.database import tables
from app.pacs.database.engine import Database
from app.pacs.database.tables import commitment, delivery, now
from app.pacs.deliver import Deliverer
from app.pacs.destination import Destination, routes
from app.pacs.judge import judged
from app.pacs.places import Places
from tests.support.checkout import skip_or_fail
from tests.support.peer import peer
from tests.support.queued import SR_CLASSES, make_results
from tests.support.syncs import syncs
from tests.support.waiting import PATIENCE_S, until

STORESCP = Path("/usr/bin/storescp")
TO = Destination("PACS", ae_title="PACS", timeout_s=PATIENCE_S, backoff=Backoff(first_s=0.1, longest_s=0.2))

# pynetdicom leaves it to the garbage collector to close the socket of a connection that was refused.
LEFT_OPEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "listener")


def deliverer(database: Database, places: Places, port: int, **other: object) -> Deliverer:
    return Deliverer(database, places, replace(TO, port=port, **other), "CTVAE")


def told(database: Database, destination: str = "PACS") -> tuple[str, str | None, str | None]:
    """State, status and reason of the only delivery to a destination."""
    columns = delivery.c.state, delivery.c.status, delivery.c.reason
    with database.read() as connection:
        return tuple(connection.execute(select(*columns).where(delivery.c.destination == destination)).one())


def make_due(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(update(delivery).values(not_before=now(), lease_until=now() - 1))


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        (0x0000, ("sent", "0x0000", None)),
        (0xB000, ("sent", "0xB000", None)),
        (0x0111, ("sent", "0x0111", None)),
        (0xA700, ("waiting", "0xA700", "REFUSED_BY_PEER")),
        (0xA900, ("failed", "0xA900", "REFUSED_BY_PEER")),
        (0xC000, ("failed", "0xC000", "REFUSED_BY_PEER")),
        (0x0124, ("failed", "0x0124", "REFUSED_BY_PEER")),
    ],
)
def test_the_answer_of_the_peer_decides(sqlite, places, status, ended):
    make_results(sqlite, places, "1.1", ["PACS"])
    with peer() as pacs:
        pacs.answer = lambda event: status
        assert deliverer(sqlite, places, pacs.port).deliver_one()
    assert told(sqlite) == ended and len(pacs.stored) == 1


def test_what_arrives_is_what_was_written_byte_for_byte(sqlite, places):
    make_results(sqlite, places, "1.1", ["PACS"])
    with peer() as pacs:
        deliverer(sqlite, places, pacs.port).deliver_one()
    (written,) = places.results.glob("*/*/comprehensive_3d.dcm")
    content = written.read_bytes()
    assert content.endswith(pacs.datasets[0]) and len(pacs.datasets[0]) > len(content) - 600  # all but the file's head


def test_dcmtk_stores_what_was_written(sqlite, places, tmp_path, unused_port):
    """Its storescp by full path: pynetdicom puts one of its own before it."""
    if not STORESCP.exists():
        skip_or_fail("no dcmtk; run .ci/programs")
    make_results(sqlite, places, "1.1", ["PACS"])
    received = tmp_path / "received"
    received.mkdir()
    command = [STORESCP, "--output-directory", received, "--bit-preserving", str(unused_port)]
    with subprocess.Popen(command, env=os.environ | {"TCP_NODELAY": "1"}) as scp:
        try:
            until(lambda: listens(unused_port) or scp.poll() is not None)
            assert deliverer(sqlite, places, unused_port).deliver_one()
        finally:
            scp.kill()
    assert told(sqlite) == ("sent", "0x0000", None)
    (file,) = received.iterdir()
    (written,) = places.results.glob("*/*/comprehensive_3d.dcm")
    assert file.read_bytes()[-2000:] == written.read_bytes()[-2000:]


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("refused", ["no context", "status 0122"])
def test_a_peer_that_takes_no_comprehensive_3d_gets_comprehensive(sqlite, places, refused):
    make_results(sqlite, places, "1.1", ["PACS"])
    old = SR_CLASSES["comprehensive"]
    with peer([old] if refused == "no context" else list(SR_CLASSES.values())) as pacs:
        pacs.answer = lambda event: 0x0000 if str(event.request.AffectedSOPClassUID) == old else 0x0122
        sender = deliverer(sqlite, places, pacs.port)
        assert sender.deliver_one() and sender.deliver_one() and not sender.deliver_one()
    assert told(sqlite) == ("sent", "0x0000", None) and pacs.stored[-1] == (old, "2.25.11")


def test_a_peer_that_takes_neither_ends_it_with_the_reason(sqlite, places):
    make_results(sqlite, places, "1.1", ["PACS"])
    with peer(["1.2.840.10008.5.1.4.1.1.2"]) as pacs:
        sender = deliverer(sqlite, places, pacs.port)
        assert sender.deliver_one() and sender.deliver_one() and not sender.deliver_one()
    assert told(sqlite) == ("failed", None, "NOT_ACCEPTED")


def test_a_lost_association_is_tried_again_and_the_instance_arrives(sqlite, places):
    make_results(sqlite, places, "1.1", ["PACS"])

    def abort(event: object) -> int:
        event.assoc.abort()  # type: ignore[attr-defined]
        return 0x0000

    with peer() as pacs:
        sender, pacs.answer = deliverer(sqlite, places, pacs.port), abort
        assert sender.deliver_one() and told(sqlite) == ("waiting", None, "ASSOCIATION_LOST")
        pacs.answer = lambda event: 0x0000
        make_due(sqlite)
        assert sender.deliver_one() and told(sqlite) == ("sent", "0x0000", None)


@LEFT_OPEN
def test_a_pacs_that_is_down_gets_everything_when_it_is_up_and_the_other_one_does_not_wait(
    database, places, unused_port
):
    for number in range(1, 4):
        make_results(database, places, f"1.{number}", ["PACS", "DEAD"], sop_uid=f"2.25.{number}")
    with peer() as live:
        senders = [deliverer(database, places, live.port), deliverer(database, places, unused_port, name="DEAD")]
        threads = [threading.Thread(target=sender.run) for sender in senders]
        for thread in threads:
            thread.start()
        until(lambda: len(live.stored) == 3)
        assert states(database, "DEAD") == {"waiting"} or states(database, "DEAD") <= {"waiting", "sending"}
        with peer(port=unused_port) as late:
            for sender in senders:
                sender.service.wake.set()
            until(lambda: states(database, "DEAD") == {"sent"})
            assert sorted(uid for _, uid in late.stored) == sorted(uid for _, uid in live.stored)
        for sender in senders:
            sender.service.stop()
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
    assert states(database, "PACS") == {"sent"}


def states(database: Database, destination: str) -> set[str]:
    with database.read() as connection:
        found = select(delivery.c.state).where(delivery.c.destination == destination)
        return set(connection.execute(found).scalars())


def test_a_sender_that_was_killed_after_the_answer_sends_again_and_one_that_was_slow_says_nothing(database, places):
    make_results(database, places, "1.1", ["PACS"])
    slow = deliveries.take(database, "PACS", 60)
    assert slow and deliveries.take(database, "PACS", 60) is None
    make_due(database)
    other = deliveries.take(database, "PACS", 60)
    assert other and other.token == slow.token + 1
    assert not deliveries.mark_sent(database, slow, judged(0))
    deliveries.mark_failed(database, slow, judged(0xA900))
    assert told(database)[0] == "sending"
    assert deliveries.mark_sent(database, other, judged(0)) and told(database)[0] == "sent"


@LEFT_OPEN
def test_what_could_not_be_sent_for_too_long_ends_as_failed_with_the_last_reason(sqlite, places, unused_port):
    make_results(sqlite, places, "1.1", ["PACS"])
    sender = deliverer(sqlite, places, unused_port, give_up_h=0.0)
    assert sender.deliver_one() and told(sqlite) == ("failed", None, "NO_ASSOCIATION")


UNRESOLVED = "(the name cannot be resolved: "


@pytest.mark.parametrize("host", ["pacs.invalid", "a..b"], ids=["unknown", "malformed"])
@pytest.mark.parametrize("kind", ["store", "stow"])
def test_a_destination_whose_name_cannot_be_resolved_is_tried_again(sqlite, places, no_names, kind, host):
    make_results(sqlite, places, "1.1", ["PACS"])
    there = {"host": host} if kind == "store" else {"kind": kind, "url": f"http://{host}/dicom-web"}
    assert deliverer(sqlite, places, 104, **there).deliver_one()
    state, _, reason = told(sqlite)
    code = "NO_ASSOCIATION" if kind == "store" else "NO_ANSWER"
    assert state == "waiting" and reason and reason.startswith(f"{code} {UNRESOLVED}")


def test_commitment_of_a_destination_whose_name_is_gone_is_asked_for_later(sqlite, places, no_names):
    with peer() as pacs:
        make_results(sqlite, places, "1.1", ["PACS"])
        assert deliverer(sqlite, places, pacs.port).deliver_one()
    assert deliverer(sqlite, places, 104, host="pacs.invalid", commitment=True).deliver_one()
    state, _, reason = told(sqlite)
    assert state == "sent" and reason and reason.startswith(f"NO_ASSOCIATION {UNRESOLVED}")


def test_a_result_whose_file_is_gone_ends_as_failed(sqlite, places):
    make_results(sqlite, places, "1.1", ["PACS"])
    for file in places.results.glob("*/*/*.dcm"):
        file.unlink()
    assert deliverer(sqlite, places, 1).deliver_one() and told(sqlite) == ("failed", None, "RESULT_MISSING")


def test_a_result_that_cannot_be_read_is_tried_again_behind_the_others_and_gives_up(sqlite, places):
    make_results(sqlite, places, "1.1", ["PACS"], sop_uid="2.25.1")
    for file in places.results.glob("*/*/*.dcm"):
        file.write_bytes(b"damaged")
    make_results(sqlite, places, "1.2", ["PACS"], sop_uid="2.25.2")
    with peer() as pacs:
        sender = deliverer(sqlite, places, pacs.port, backoff=Backoff(60, 60))
        assert sender.deliver_one() and sender.deliver_one() and not sender.deliver_one()
        assert [uid for _, uid in pacs.stored] == ["2.25.20"] and states(sqlite, "PACS") == {"waiting", "sent"}
        make_due(sqlite)
        assert deliverer(sqlite, places, pacs.port, give_up_h=0.0).deliver_one()
    assert states(sqlite, "PACS") == {"failed", "sent"}


def test_a_sent_result_whose_file_is_damaged_is_asked_about_later_and_does_not_hold_up_the_next(sqlite, places):
    make_results(sqlite, places, "1.1", ["PACS"], sop_uid="2.25.1")
    make_results(sqlite, places, "1.2", ["PACS"], sop_uid="2.25.2")
    with peer() as pacs:  # that knows no storage commitment, so each is asked about by C-FIND, for which it is read
        sender = deliverer(sqlite, places, pacs.port, commitment=True, backoff=Backoff(60, 60))
        assert sender.deliver_one() and sender.deliver_one()
        for file in places.results.glob("1-1/*/*.dcm"):
            file.write_bytes(b"damaged")
        make_due(sqlite)
        assert sender.deliver_one() and sender.deliver_one() and not sender.deliver_one()
    with sqlite.read() as connection:
        reasons = list(connection.execute(select(delivery.c.reason).order_by(delivery.c.id)).scalars())
    assert reasons == ["INTERNAL_ERROR (InvalidDicomError)", "COMMITMENT_NOT_ACCEPTED"]


def test_rules_by_ae_title_say_where_a_result_goes():
    archive = replace(TO, name="ARCHIVE", from_ae=("CT1", "CT2"))
    names_of = routes([TO, archive])
    assert (names_of("CT1"), names_of("CT3")) == (["PACS", "ARCHIVE"], ["PACS"])


@pytest.mark.parametrize(
    ("values", "said"),
    [({"ae_title": None}, "no ae_title"), ({"kind": "stow"}, "no url")],
)
def test_a_destination_that_lacks_what_its_kind_needs_is_refused(values, said):
    with pytest.raises(ValueError, match=said):
        replace(TO, **values)


def asked(database: Database, places: Places) -> tuple[deliveries.Sending, str]:
    """A delivery that was sent, and for which the peer was asked to answer."""
    make_results(database, places, "1.1", ["PACS"])
    sending = deliveries.take(database, "PACS", 60)
    assert sending and deliveries.mark_sent(database, sending, judged(0))
    sent = deliveries.take_unconfirmed(database, "PACS", 60)
    assert sent
    return sent, deliveries.begin_commitment(database, sent, 60)


def test_a_report_confirms_what_it_names(database, places):
    sent, transaction = asked(database, places)
    assert not deliveries.report_commitment(database, "1.2.3", {sent.sop_uid}, {})
    assert deliveries.report_commitment(database, transaction, {sent.sop_uid}, {})
    assert told(database)[0] == "confirmed" and deliveries.take_unconfirmed(database, "PACS", 0) is None


def test_a_report_that_refuses_has_it_sent_again_and_not_for_ever(sqlite, places):
    sent, transaction = asked(sqlite, places)
    deliveries.report_commitment(sqlite, transaction, set(), {sent.sop_uid: 0x0112})
    assert told(sqlite) == ("waiting", "0x0112", "COMMITMENT_REFUSED")
    for _ in range(deliveries.MOST_REFUSALS - 1):
        make_due(sqlite)
        sending = deliveries.take(sqlite, "PACS", 60)
        assert sending and deliveries.mark_sent(sqlite, sending, judged(0))
        sent = deliveries.take_unconfirmed(sqlite, "PACS", 60)
        assert sent
        deliveries.report_commitment(sqlite, deliveries.begin_commitment(sqlite, sent, 60), set(), {})
    assert told(sqlite) == ("failed", "NOT_NAMED", "COMMITMENT_REFUSED")


def test_a_late_report_counts_and_one_after_the_confirmation_changes_nothing(sqlite, places):
    sent, transaction = asked(sqlite, places)
    deliveries.close_commitment(sqlite, transaction, "unanswered", "no report in time")
    assert deliveries.report_commitment(sqlite, transaction, {sent.sop_uid}, {})
    assert told(sqlite)[0] == "confirmed"
    assert deliveries.report_commitment(sqlite, transaction, set(), {sent.sop_uid: 0x0112})
    assert told(sqlite)[0] == "confirmed"


def test_a_peer_without_commitment_and_query_is_asked_again_later_and_at_last_it_is_not_confirmed(sqlite, places):
    make_results(sqlite, places, "1.1", ["PACS"])
    with peer() as pacs:
        sender = deliverer(sqlite, places, pacs.port, commitment=True, backoff=Backoff(60, 60))
        assert sender.deliver_one() and sender.deliver_one() and not sender.deliver_one()
        assert told(sqlite) == ("sent", "0x0000", "COMMITMENT_NOT_ACCEPTED")
        with sqlite.read() as connection:
            assert connection.execute(select(commitment.c.state)).scalars().all() == ["unanswered"]
        make_due(sqlite)
        assert deliverer(sqlite, places, pacs.port, commitment=True, give_up_h=0.0).deliver_one()
    assert told(sqlite)[::2] == ("failed", "NOT_CONFIRMED")


def test_a_folder_gets_all_files_of_a_result_and_a_disk_that_is_not_ours_is_tried_again(
    sqlite, places, tmp_path, monkeypatch
):
    job_id = make_results(sqlite, places, "1.1", ["OUT"])
    result = next(places.results.glob(f"{job_id}-*/1.1"))
    (result / "comprehensive_3d.dcm").rename(result / "features.sr.dcm")
    (result / "comprehensive.dcm").rename(result / "features.comprehensive.sr.dcm")
    (result / "features.json").write_text("{}")
    with sqlite.begin() as connection:
        named = str((result / "features.sr.dcm").relative_to(places.results))
        connection.execute(update(tables.result).where(tables.result.c.rank == 0).values(path=named))
    out = tmp_path / "out"
    out.write_text("a file is in the way")
    to = Destination("OUT", kind="folder", path=str(out), backoff=Backoff(first_s=0.0, longest_s=0.0))
    sender = Deliverer(sqlite, places, to, "CTVAE")
    assert sender.deliver_one()
    assert told(sqlite, "OUT") == ("waiting", None, "OUTPUT_UNWRITABLE (Not a directory)")
    out.unlink()
    synced = syncs(monkeypatch)
    assert sender.deliver_one()
    assert told(sqlite, "OUT") == ("sent", "COPIED", None)
    assert {tmp_path, out, out / "1.1"} <= set(synced)  # the names of out, of 1.1 and of the files survive a power loss
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("features*")) == [
        "1.1/features.json",
        "1.1/features.sr.dcm",
    ]


def test_a_copy_that_was_late_does_not_take_the_place_of_a_newer_one(sqlite, places, tmp_path):
    make_results(sqlite, places, "1.1", ["OUT"], "2.25.1")
    with sqlite.begin() as connection:
        newer = update(tables.result).where(tables.result.c.rank == 1).values(predecessor="2.25.10")
        connection.execute(newer)
    to = Destination("OUT", kind="folder", path=str(tmp_path / "out"))
    assert Deliverer(sqlite, places, to, "CTVAE").deliver_one()
    assert told(sqlite, "OUT") == ("sent", "REPLACED", None) and not (tmp_path / "out").exists()
