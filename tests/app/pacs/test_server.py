"""Hostile and dead peers: each is dropped in time, and meanwhile a good one is served. PS3.8 for the PDUs."""

from __future__ import annotations

import ssl
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from app.pacs.receive import tls_context
from app.pacs.settings import ListenerSettings, Tls
from operators.dicom import file_format
from operators.errors import StartError
from tests.support.listeners import (
    LATE_S,
    PATIENT,
    accepted,
    associate,
    associate_rq,
    connect,
    data_set_of,
    drop_late,
    echo,
    listener,
    pdu,
    rejection,
    status_in,
    store_rq,
    usage,
    was_closed,
)
from tests.support.tiny_ct import stored_values, write_tiny_ct
from tests.support.tls import client_context, listener_tls
from tests.support.waiting import until

HL7 = b"\x0bMSH|^~\\&|LAB|A|B|C|20200101||ORU^R01|1|P|2.5\r\x1c\r"
LONG_PDU = b"\1\0\xff\xff\xff\xf0" + bytes(1 << 16)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    with listener(tmp_path_factory.mktemp("listener")) as listening:
        yield listening


BEFORE_ACCEPTANCE = {
    "silent": b"",
    "HL7": HL7,
    "garbage": bytes(range(256)),
    "three bytes": b"\1\0\0",
    "half a request": associate_rq()[:60],
    "a PDU of 4 GB": LONG_PDU,
}
AFTER_ACCEPTANCE = {
    "half a PDU": b"\4\0\0\0\x40\0" + bytes(100),
    "a PDU of 4 GB": b"\4\0\xff\xff\xff\xf0" + bytes(1 << 16),
    "an empty PDV": pdu(4, b"\0\0\0\2\1\3"),
    "an unknown context": pdu(4, b"\0\0\0\4\x63\3\0\0"),
    "garbage": bytes(range(256)),
}
PEERS = [(connect, said) for said in BEFORE_ACCEPTANCE.values()] + [
    (accepted, said) for said in AFTER_ACCEPTANCE.values()
]


# pynetdicom's thread may end with what a peer sent; the peer is dropped all the same.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("begin", "said"), PEERS, ids=[*BEFORE_ACCEPTANCE, *AFTER_ACCEPTANCE])
def test_peers_that_stay_are_dropped_in_time_and_a_good_one_is_served(here, begin, said):
    before = usage()
    with ExitStack() as stack:
        peers = [stack.enter_context(begin(here.port)) for _ in range(15)]
        for peer in peers:
            peer.sendall(said)
        echo(here.port)
        drop_late(here, peers)
    until(lambda: usage().within(before))


DRIPPING = [
    (connect, b"\1\0\0\0\x40\0" + associate_rq()[6:40], b"\0"),
    (accepted, b"\4\0\0\0\x40\0", b"\0"),
    (accepted, b"", pdu(4, b"\0\0\0\4\1\1\0\0")),
]


@pytest.mark.parametrize(("begin", "first", "drop"), DRIPPING, ids=["request", "PDU", "message in tiny PDUs"])
def test_a_peer_that_drips_is_dropped(here, begin, first, drop):
    with begin(here.port) as peer:
        peer.sendall(first)

        def dropped():
            here.clock.now += LATE_S / 10
            try:
                peer.sendall(drop)
            except ConnectionError:
                return True
            return False

        until(dropped)


def test_many_bare_connects_leave_nothing_behind(here):
    before = usage()
    for _ in range(200):
        connect(here.port).close()
    echo(here.port)
    until(lambda: usage().within(before))


def test_many_wrong_titles_are_all_rejected_for_good_and_for_their_reason(here):
    with ThreadPoolExecutor(25) as pool:
        found = list(pool.map(lambda _: rejection(here.port, called="OTHER"), range(50)))
        echo(here.port)
    assert set(found) == {(1, 1, 7)}


def test_beyond_its_associations_a_peer_is_rejected_for_now_and_another_is_not(tmp_path):
    settings = ListenerSettings(limits=replace(PATIENT, associations_per_peer=3))
    with listener(tmp_path, settings) as here:
        found = [associate(here.port) for _ in range(3)]
        assert [one.is_established for one in found] == [True, True, True]
        assert rejection(here.port) == (2, 3, 2)
        echo(here.port, "127.0.0.2")
        found[0].release()
        until(lambda: sum(one.accepted for one in here.server._alive()) == 2)
        echo(here.port, "127.0.0.1")
        for one in found[1:]:
            one.release()


def test_silent_peers_of_one_address_do_not_use_up_what_another_needs(tmp_path):
    settings = ListenerSettings(limits=replace(PATIENT, connections=30, connections_per_peer=20))
    with listener(tmp_path, settings) as here, ExitStack() as stack:
        peers = [stack.enter_context(connect(here.port)) for _ in range(40)]
        until(lambda: len(here.server._alive()) == 20)
        echo(here.port, "127.0.0.2")
        closed = [peer for peer in peers[20:] if was_closed(peer)]
        assert len(closed) == 20


def test_idle_associations_are_ended(tmp_path):
    before = usage()
    with listener(tmp_path, ListenerSettings(limits=replace(PATIENT, idle_s=0.5))) as here:
        found = [associate(here.port) for _ in range(5)]
        until(lambda: all(one.is_aborted for one in found))
        found.clear()
    until(lambda: usage().within(before))


def test_with_tls_only_a_peer_with_a_certificate_is_served_and_silent_ones_do_not_stop_it(certificates, tmp_path):
    settings = ListenerSettings(tls=listener_tls(certificates), limits=PATIENT)
    with listener(tmp_path, settings) as here, ExitStack() as stack:
        peers = [stack.enter_context(connect(here.port)) for _ in range(10)]
        echo(here.port, tls=client_context(certificates))
        assert not associate(here.port).is_established
        stranger = client_context(certificates, own=False).wrap_socket(connect(here.port), server_hostname="listener")
        with stranger, pytest.raises(ssl.SSLError, match="certificate required"):
            stranger.recv(1)  # TLS 1.3 ends the client's handshake before the server has asked for its certificate
        drop_late(here, peers)


def test_a_certificate_that_cannot_be_used_is_named_at_the_start(tmp_path):
    (tmp_path / "no.pem").write_text("nothing")
    with pytest.raises(StartError, match=r"TLS_INVALID: listener\.tls"):
        tls_context(Tls(certificate=str(tmp_path / "no.pem"), key=str(tmp_path / "no.pem")))


def test_a_deflated_bomb_and_an_element_of_2_gb_are_refused_and_the_listener_lives(here, tmp_path, monkeypatch):
    monkeypatch.setattr(file_format, "MAX_INFLATED_BYTES", 4 << 20)
    (path,) = write_tiny_ct(tmp_path, stored_values(1))
    endless = struct.pack("<HH2sHI", 0x0008, 0x0008, b"UN", 0, 0x7FFFFFF0) + data_set_of(path)
    packer = zlib.compressobj(9, wbits=-15)
    bomb = packer.compress(data_set_of(path) + bytes(8 << 20)) + packer.flush()
    for syntax, data in ((ExplicitVRLittleEndian, endless), (DeflatedExplicitVRLittleEndian, bomb)):
        with accepted(here.port, syntax) as peer:
            peer.sendall(store_rq("1.2.3", data))
            assert status_in(peer.recv(4096)) == 0xC000
    echo(here.port)
    assert here.half_arrived() == []
