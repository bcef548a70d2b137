"""One thread at a time uses a TLS connection: OpenSSL allows no more, and CPython before 3.13 does not see to it.

The fixture `tls_uses` checks every test of this folder; here is what no other test does over TLS.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from app.pacs.commitment import INSTANCE, report_handler
from app.pacs.database.engine import Database
from app.pacs.database.tables import delivery
from app.pacs.deliver import Deliverer
from app.pacs.destination import Destination
from app.pacs.places import Places
from app.pacs.settings import ListenerSettings
from tests.support.listeners import (
    PATIENT,
    PREPARED,
    Listener,
    associate_rq,
    connect,
    data_set_of,
    drop_late,
    listener,
    p_data,
    pdu,
    status_in,
    store_command,
)
from tests.support.peer import peer
from tests.support.queued import SR_CLASSES, make_results
from tests.support.tiny_ct import SERIES
from tests.support.tls import client_context, listener_tls, server_context
from tests.support.waiting import PATIENCE_S, until
from tests.support.watched_tls import Use


@contextmanager
def over_tls(folder: Path, certificates: Path) -> Iterator[tuple[Listener, ssl.SSLSocket]]:
    """A listener, and a peer whose association for CT it has accepted."""
    settings = ListenerSettings(tls=listener_tls(certificates), limits=PATIENT)
    with listener(folder, settings) as here:
        client = client_context(certificates).wrap_socket(connect(here.port), server_hostname="listener")
        with client:
            client.sendall(associate_rq())
            assert client.recv(4096)[:1] == b"\2"
            until(lambda: [one.is_established for one in here.server.active_associations] == [True])
            yield here, client


def test_whatever_a_peer_asks_for_is_answered_in_the_thread_that_reads(certificates, tmp_path, tls_uses):
    contexts = [build_context(Verification), build_context(StorageCommitmentPushModel)]
    roles = [build_role(StorageCommitmentPushModel, scp_role=True)]
    report = Dataset()
    report.TransactionUID = "1.2.3"
    with listener(tmp_path, ListenerSettings(tls=listener_tls(certificates), limits=PATIENT)) as here:
        here.server.bind(evt.EVT_N_EVENT_REPORT, report_handler(here.database))
        ae = AE("PACS")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = PATIENCE_S
        secured = {"tls_args": (client_context(certificates), "listener"), "evt_handlers": PREPARED}
        assoc = ae.associate("127.0.0.1", here.port, contexts, "CTVAE", ext_neg=roles, **secured)
        for _ in range(2):
            assert assoc.send_c_echo().Status == 0
            told, _ = assoc.send_n_event_report(report, 1, StorageCommitmentPushModel, INSTANCE)
            assert told.Status == 0x0112  # a transaction that we do not know
        assoc.release()
    turns = [[thread.name for thread in use.turns[:2]] for use in tls_uses]
    assert any("process_request" in names[0] and "run_reactor" in names[-1] for names in turns)


def test_a_request_that_pynetdicom_takes_is_answered_in_the_thread_that_reads(certificates, tmp_path, slices):
    with over_tls(tmp_path, certificates) as (here, client):
        command = store_command(f"{SERIES}.1")[12:]
        for _ in range(2):
            client.sendall(p_data(command[:20], 1) + p_data(command[20:], 3) + p_data(data_set_of(slices[0]), 2))
            assert status_in(client.recv(4096)) == 0
        assert len(here.files()) == 1


def leave(here: Listener, client: ssl.SSLSocket) -> None:
    client.close()


def late(here: Listener, client: ssl.SSLSocket) -> None:
    client.sendall(b"\4\0\0\0\x40\0")
    drop_late(here, [client])


ENDS: dict[str, Callable[[Listener, ssl.SSLSocket], None]] = {
    "release": lambda here, client: client.sendall(pdu(5, bytes(4))),
    "abort": lambda here, client: client.sendall(pdu(7, bytes(4))),
    "garbage": lambda here, client: client.sendall(bytes(40)),
    "leave": leave,
    "late": late,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_however_an_association_ends_its_threads_do_not_meet(certificates, tmp_path, end):
    with over_tls(tmp_path, certificates) as (here, client):
        end(here, client)
        client.close()
        until(lambda: not here.server.active_associations)


def test_an_association_that_we_end_for_being_idle_is_aborted_by_the_thread_that_reads(certificates, tmp_path):
    with over_tls(tmp_path, certificates) as (here, client):
        (assoc,) = here.server.active_associations
        assoc.network_timeout = 0.2
        assert client.recv(10)[:1] == b"\7"
        until(lambda: not here.server.active_associations)


def test_a_report_on_our_own_association_is_answered_in_the_thread_that_reads(sqlite, certificates, tmp_path):
    names = {name: str(certificates / file) for name, file in (("certificate", "client.pem"), ("key", "client.key"))}
    to = Destination("PACS", ae_title="PACS", ca=str(certificates / "ca.pem"), commitment=True, **names)
    places = Places(tmp_path / "listener")
    make_results(sqlite, places, "1.1", ["PACS"])
    with peer([*SR_CLASSES.values(), StorageCommitmentPushModel], tls=server_context(certificates)) as pacs:
        sender = Deliverer(sqlite, places, replace(to, port=pacs.port, timeout_s=PATIENCE_S), "CTVAE")
        assert sender.deliver_one() and sender.deliver_one()
    assert pacs.reported == [0] and state(sqlite) == "confirmed"


def state(database: Database) -> str:
    with database.read() as connection:
        return str(connection.execute(delivery.select()).one().state)


def test_two_threads_that_share_a_connection_would_be_found():
    reader, writer, use = threading.Thread(name="reader"), threading.Thread(name="writer"), Use()
    with use.of(reader, "read"):
        pass
    with use.of(writer, "write"):
        assert use.wrong == []
        with use.of(reader, "pending"):
            pass
    found = ["pending in reader during write", "pending in reader after writer had the connection"]
    assert use.wrong == found
