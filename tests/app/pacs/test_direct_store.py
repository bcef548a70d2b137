"""C-STORE in the thread that reads: the same is kept and answered as through pynetdicom, and nothing else is taken."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from dataclasses import replace

import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian
from pynetdicom import association, dimse, dul, fsm, transport
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.presentation import build_context

from app.pacs.database.tables import instance
from app.pacs.direct_store import DATA_TRANSFER
from app.pacs.guarded_socket import BEFORE_REQUEST
from app.pacs.settings import ListenerSettings
from tests.support.listeners import (
    PATIENT,
    accepted,
    associate,
    data_set_of,
    drop_late,
    echo,
    listener,
    p_data,
    pdu,
    send,
    status_in,
    store_command,
    store_rq,
    was_closed,
    was_ended,
)
from tests.support.tiny_ct import SERIES, stored_values, write_tiny_ct
from tests.support.tls import client_context, listener_tls
from tests.support.waiting import until

UID = f"{SERIES}.1"


@contextmanager
def established(here):
    """A peer whose association the listener, too, knows to be established: until then pynetdicom stores."""
    with accepted(here.port) as peer:
        until(lambda: [one.is_established for one in here.server.active_associations] == [True])
        yield peer


@pytest.fixture
def through_pynetdicom(monkeypatch):
    """Counts the fragments that pynetdicom takes."""
    taken, decode = [], DIMSEMessage.decode_msg

    def decode_msg(self, primitive, assoc=None):
        taken.append(1)
        return decode(self, primitive, assoc)

    monkeypatch.setattr(DIMSEMessage, "decode_msg", decode_msg)
    return taken


def kept(here):
    return (here.spool.root / "instances" / SERIES / f"{UID}.dcm").read_bytes()


def fragment(content, header, context=1):
    return (len(content) + 2).to_bytes(4, "big") + bytes([context, header]) + content


def whole(slices):
    """Command and data set of a request."""
    return store_command(UID)[12:], data_set_of(slices[0])


def usual(command, data):
    return p_data(command, 3) + p_data(data, 2)


def tiny(command, data):
    return (
        p_data(command, 3)
        + b"".join(p_data(data[at : at + 100], 0) for at in range(0, len(data), 100))
        + p_data(b"", 2)
    )


def together(command, data):
    return pdu(4, fragment(command, 3) + fragment(data[:99], 0) + fragment(data[99:], 2))


def in_a_command_of_two(command, data):
    return p_data(command[:20], 1) + p_data(command[20:], 3) + p_data(data, 2)


FORMS = [usual, tiny, together, in_a_command_of_two]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_request_in_any_form_leaves_the_same_bytes(here, slices, through_pynetdicom, form):
    with established(here) as peer:
        peer.sendall(form(*whole(slices)))
        assert status_in(peer.recv(4096)) == 0
        assert (len(through_pynetdicom) > 0) == (form is in_a_command_of_two)
        first = kept(here)
        assert first.endswith(data_set_of(slices[0]))
        peer.sendall(in_a_command_of_two(*whole(slices)))
        assert status_in(peer.recv(4096)) == 0
    assert (kept(here), len(here.files()), here.half_arrived()) == (first, 1, [])
    assert [(row.calling_ae, row.sender) for row in here.rows(instance)] == [("PEER", "127.0.0.1")]


def test_two_requests_at_once_are_answered_in_turn(here, slices, through_pynetdicom):
    with established(here) as peer:
        peer.sendall(store_rq(UID, data_set_of(slices[0])) + store_rq(f"{SERIES}.2", data_set_of(slices[1])))
        answers = b""
        while answers.count(b"\x04\0\0\0") < 2 or not answers.endswith(f"{SERIES}.2".encode() + b"\0" * (len(UID) % 2)):
            answers += peer.recv(4096)
        assert answers.index(UID.encode()) < answers.index(f"{SERIES}.2".encode())
    assert len(here.files()) == 2 and not through_pynetdicom


def test_a_whole_series_of_storescu_is_taken_but_for_what_begins_too_early(here, slices, through_pynetdicom):
    assert send(here.port, *slices * 3).returncode == 0
    assert len(here.files()) == 3
    assert len(through_pynetdicom) <= 2  # the first request may come before our side is established


BROKEN = {
    "another context": p_data(b"x")[:10] + b"\3\0x",
    "a command in the middle": store_command(UID),
    "a length beyond the PDU": pdu(4, b"\0\0\1\0\1\0" + bytes(20)),
    "a length of 4 GB": pdu(4, b"\xff\xff\xff\xff\1\0" + bytes(20)),
    "a length below two": pdu(4, b"\0\0\0\1\1"),
    "half a length": pdu(4, fragment(b"xy", 0) + b"\0\0"),
    "more after the last": pdu(4, fragment(b"xy", 2) + fragment(b"xy", 0)),
    "garbage": b"\x42" * 40,
    "another request for an association": pdu(1, bytes(80)),
    "a PDU that is too long": b"\4\0\x7f\xff\xff\xff" + bytes(100),
}


def cut_off(here, slices, then):
    """Send a part of a request, and then what ends it, or nothing more: the listener closes; nothing is left half."""
    with established(here) as peer:
        peer.sendall(store_rq(UID, data_set_of(slices[0])[:200], last=False))
        until(lambda: len(here.half_arrived()) == 1)
        peer.sendall(then)
        if then:
            assert was_ended(peer)
        else:
            drop_late(here, [peer])
    until(lambda: here.half_arrived() == [])


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_what_cannot_follow_ends_the_association_and_leaves_nothing(here, slices, broken):
    cut_off(here, slices, broken)
    assert here.files() == []
    echo(here.port)


def test_a_peer_that_stays_after_it_was_aborted_is_disconnected(here, slices):
    """By the timer ARTIM (PS3.8 9.2.3, AA-2), whatever the sweeper's clock says."""
    with established(here) as peer:
        (assoc,) = here.server.active_associations
        assoc.dul.artim_timer.timeout = 0.1
        peer.sendall(store_rq(UID, data_set_of(slices[0])[:200], last=False) + BROKEN["a command in the middle"])
        assert was_ended(peer) and was_closed(peer)
    until(lambda: here.half_arrived() == [])
    assert here.files() == []


@pytest.mark.parametrize("end", [pdu(7, bytes(4)), pdu(5, bytes(4)), b""], ids=["abort", "release", "silence"])
def test_a_request_that_ends_in_the_middle_leaves_nothing(here, slices, end):
    cut_off(here, slices, end)
    assert here.files() == []


def test_a_request_of_another_class_than_its_context_is_judged_by_what_it_brings(here, slices, through_pynetdicom):
    with established(here) as peer:
        peer.sendall(store_command(UID, EnhancedCTImageStorage) + p_data(data_set_of(slices[0]), 2))
        assert status_in(peer.recv(4096)) == 0xA900
    assert through_pynetdicom and here.files() == []


def test_an_error_of_ours_is_answered_and_the_association_goes_on(here, slices, monkeypatch, caplog):
    with established(here) as peer:
        with monkeypatch.context() as broken:
            broken.setattr("app.pacs.intake.record", lambda *about: 1 / 0)
            peer.sendall(store_rq(UID, data_set_of(slices[0])))
            assert status_in(peer.recv(4096)) == 0xC211
        peer.sendall(store_rq(UID, data_set_of(slices[0])))
        assert status_in(peer.recv(4096)) == 0
    assert "an object was not stored" in caplog.text and here.half_arrived() == []
    assert len(here.rows(instance)) == 1


def test_short_pdus_only_are_asked_for_and_a_long_request_for_an_association_is_read(tmp_path, slices):
    settings = ListenerSettings(limits=replace(PATIENT, max_pdu_bytes=4096))
    with listener(tmp_path, settings) as here:
        assoc = associate(here.port, *[build_context(CTImageStorage, ExplicitVRLittleEndian)] * 128)
        assert assoc.is_established and assoc.acceptor.maximum_length == 4096
        assert [assoc.send_c_store(dcmread(path)).Status for path in slices] == [0, 0, 0]
        assoc.release()
        assert len(here.files()) == 3


def test_over_tls_the_same_is_kept(certificates, tmp_path, slices, through_pynetdicom):
    settings = ListenerSettings(tls=listener_tls(certificates), limits=PATIENT)
    (large,) = write_tiny_ct(tmp_path / "large", stored_values(1, 400, 400))
    with listener(tmp_path, settings) as here:
        assoc = associate(here.port, tls=client_context(certificates))
        until(lambda: [one.is_established for one in here.server.active_associations] == [True])
        taken = len(through_pynetdicom)
        assert assoc.send_c_store(dcmread(large)).Status == 0
        assert len(through_pynetdicom) == taken + 1  # our requestor's answer
        assoc.release()
        assert kept(here).endswith(data_set_of(large)[-300_000:])


def test_pynetdicom_has_what_this_stands_on():
    """Names and steps that its interface does not promise; without them data sets would get lost or be stored twice."""
    expected = {
        dul: [
            "self._idle_timer = Timer",
            "self._run_loop_delay",
            "if self._process_recv_primitive():",
            "self.socket.ready",
            "self.socket.recv(",
        ],
        dimse: ["self.message: ", "self.message = None", "self.msg_queue: ", "evt.EVT_DIMSE_RECV,"],
        association: ["self.dul.idle_timer_expired()", "self.is_established: bool = False"],
        fsm: [
            f'("Evt10", "{DATA_TRANSFER}"): "DT-2"',
            f'("Evt17", "{DATA_TRANSFER}"): "AA-4"',
            f'("Evt19", "{DATA_TRANSFER}"): "AA-8"',
            *(f'"{state}"): "AE-{action}"' for state, action in zip(BEFORE_REQUEST, (5, 6), strict=True)),
        ],
        transport: ["self._shutdown_socket()", "def _shutdown_socket(self)"],
    }
    source = {module: inspect.getsource(module) for module in expected}
    pairs = [(module, one) for module, known in expected.items() for one in known]
    gone = [f"{module.__name__}: {one}" for module, one in pairs if one not in source[module]]
    assert gone == [], "pynetdicom has changed: see app/pacs/guarded_socket.py and app/pacs/direct_store.py"
