"""A PACS that takes only TLS: it is asked and fetched from, and where TLS fails the reason is said."""

from __future__ import annotations

import gc
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE, build_context, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from app.cli import main
from app.pacs import fetch, outgoing
from app.pacs.fetch import Pacs, PacsAway
from app.pacs.intake import Intake
from app.pacs.receive import Receiver
from app.pacs.settings import Query
from tests.support.listeners import Listener
from tests.support.tiny_ct import SERIES, STUDY
from tests.support.tls import server_context
from tests.support.waiting import PATIENCE_S

MODELS = (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
A_ASSOCIATE_AC, P_DATA = 2, 4
OURS = {"ca": "ca.pem", "certificate": "client.pem", "key": "client.key"}

# pynetdicom leaves it to the garbage collector to close the socket of a connection that was refused.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wait for a slow machine, and have the garbage collector work within the test whose garbage it is."""
    monkeypatch.setattr(fetch, "CONNECT_S", PATIENCE_S)
    yield
    gc.collect()


@contextmanager
def pacs(
    slices: list[Path],
    tls: ssl.SSLContext | None,
    moves_to: int = 0,
    answers: threading.Event | None = None,
    silent_in: int | None = None,
) -> Iterator[Query]:
    """A PACS that holds these slices of one series.

    Args:
        slices: of the series.
        tls: None for plain TCP.
        moves_to: port of loopback that a C-MOVE goes to, without TLS.
        answers: it waits for this after each slice; None for no pause.
        silent_in: type of the PDU of which it sends the first bytes, and then nothing more; None for none.
    """
    held = [dcmread(path) for path in slices]

    def find(event: Event) -> Iterator[tuple[int, Dataset]]:
        of_series = event.identifier.QueryRetrieveLevel == "SERIES"
        for one in held[:1] if of_series else held:
            match = Dataset()
            match.SeriesInstanceUID = one.SeriesInstanceUID
            if of_series:
                match.NumberOfSeriesRelatedInstances = len(held)
            else:
                match.SOPInstanceUID = one.SOPInstanceUID
            yield 0xFF00, match

    def wanted(event: Event) -> Iterator[object]:
        if event.event is evt.EVT_C_MOVE:
            yield "127.0.0.1", moves_to
        yield len(event.identifier.SOPInstanceUID)
        for one in held:
            if one.SOPInstanceUID in event.identifier.SOPInstanceUID:
                yield 0xFF00, one
                if answers:
                    answers.wait(PATIENCE_S)

    ae = AE("PACS")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = PATIENCE_S
    for model in MODELS:
        ae.add_supported_context(model)
    ae.add_supported_context(CTImageStorage, scu_role=False, scp_role=True)
    ae.requested_contexts = [build_context(CTImageStorage)]

    def falls_silent(event: Event) -> None:
        transport = event.assoc.dul.socket
        whole = transport.send

        def send(pdu: bytes) -> None:
            if pdu[0] == silent_in:
                whole(pdu[:20])
                transport.send = lambda more: None
            else:
                whole(pdu)

        transport.send = send

    handlers = [(evt.EVT_C_FIND, find), (evt.EVT_C_GET, wanted), (evt.EVT_C_MOVE, wanted)]
    handlers.append((evt.EVT_CONN_OPEN, falls_silent))
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=tls)
    try:
        yield Query("PACS", port=server.server_address[1])
    finally:
        server.shutdown()


def asked(query: Query, certificates: Path, **files: str) -> Pacs:
    """A PACS as we ask it, with these files of ours."""
    paths = {name: str(certificates / file) for name, file in files.items()}
    return Pacs(replace(query, **paths), "CTVAE", lambda event: 0x0110)


def test_it_says_how_many_instances_it_has_and_which(slices, certificates):
    with pacs(slices, server_context(certificates)) as query:
        over_tls = asked(query, certificates, **OURS)
        assert over_tls.count(STUDY, SERIES) == len(slices)
        assert over_tls.instances(STUDY, SERIES) == {dcmread(path).SOPInstanceUID for path in slices}


def test_c_get_fetches_over_one_association_of_which_one_thread_alone_uses_the_socket(
    here, slices, certificates, tls_uses
):
    with pacs(slices, server_context(certificates)) as query:
        fetched(here, asked(query, certificates, **OURS))
    assert len(here.files()) == len(slices)
    ours = [use for use in tls_uses if "run_reactor" in use.turns[0].name]  # the PACS shakes hands in another thread
    assert [len(use.turns) for use in ours] == [1, 1]  # C-FIND and C-GET


def test_c_move_is_asked_for_over_tls(here, slices, certificates):
    with pacs(slices, server_context(certificates), here.port) as query:
        fetched(here, asked(replace(query, retrieve="move"), certificates, **OURS))
    assert len(here.files()) == len(slices)


def test_one_that_falls_silent_in_a_c_get_is_aborted_and_no_threads_meet(here, slices, certificates, monkeypatch):
    answers = threading.Event()
    with pacs(slices, server_context(certificates), answers=answers) as query:
        over_tls = asked(query, certificates, **OURS)
        uids = over_tls.instances(STUDY, SERIES)
        monkeypatch.setattr(fetch, "ANSWER_S", 1.0)
        with pytest.raises(PacsAway, match="lost or timed out"):
            over_tls.fetch(STUDY, SERIES, sorted(uids))
        answers.set()


@pytest.mark.parametrize("secured", [True, False], ids=["TLS", "plain TCP"])
@pytest.mark.parametrize(("pdu", "said"), [(A_ASSOCIATE_AC, "no association"), (P_DATA, "lost or timed out")])
def test_one_that_falls_silent_within_a_pdu_is_away_soon(slices, certificates, monkeypatch, secured, pdu, said):
    monkeypatch.setattr(outgoing, "PDU_S", 0.5)
    monkeypatch.setattr(fetch, "ANSWER_S", PATIENCE_S)
    tls, ours = (server_context(certificates), OURS) if secured else (None, {})
    with ThreadPoolExecutor() as pool, pacs(slices, tls, silent_in=pdu) as query:
        asking = pool.submit(asked(query, certificates, **ours).count, STUDY, SERIES)
        with pytest.raises(PacsAway, match=said):
            asking.result(PATIENCE_S / 4)


def fetched(here: Listener, peer: Pacs) -> None:
    """Fetch all that it has of the series."""
    receiving = replace(peer, store=Receiver(Intake(here.spool, here.database)).store)
    receiving.fetch(STUDY, SERIES, sorted(receiving.instances(STUDY, SERIES)))


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("files", "said"),
    [
        (OURS | {"ca": "other.pem"}, r"TLS failed: .*certificate verify failed.*; check ca"),
        # With TLS 1.3, its reset can reach us before the reason for it does.
        ({"ca": "ca.pem"}, r"TLS failed: .*alert.*; check ca, certificate and key|accepts our certificate"),
        ({}, "no association.* needs no TLS"),
    ],
    ids=["another authority", "no certificate of ours", "no TLS of ours"],
)
def test_a_pacs_that_tls_does_not_reach_is_away_and_tls_is_named(slices, certificates, files, said, newest):
    context = server_context(certificates)
    context.maximum_version = newest
    with pacs(slices, context) as query, pytest.raises(PacsAway, match=said):
        asked(query, certificates, **files).count(STUDY, SERIES)


def test_a_pacs_without_tls_is_not_asked_in_the_clear(slices, certificates):
    with pacs(slices, None) as query, pytest.raises(PacsAway, match=r"TLS failed: .*; .* its port takes TLS"):
        asked(query, certificates, **OURS).count(STUDY, SERIES)


def test_of_a_pacs_where_nobody_listens_tls_is_not_said_to_have_failed(certificates, unused_port):
    with pytest.raises(PacsAway, match="no association; check its AE title, address and port"):
        asked(Query("PACS", port=unused_port), certificates, **OURS).count(STUDY, SERIES)


def test_a_file_that_vanishes_later_is_the_reason_that_it_is_away(certificates):
    with pytest.raises(PacsAway, match=r"TLS_INVALID: listener\.query: cannot read ca: No such file"):
        asked(Query("PACS"), certificates, ca="gone.pem").count(STUDY, SERIES)


def test_a_file_that_cannot_be_used_stops_the_start(tmp_path, capsys):
    query = f"{{ae_title: PACS, ca: {tmp_path}/nothing.pem}}"
    (tmp_path / "app.yaml").write_text(f"listener: {{folder: {tmp_path}/state, port: 0, query: {query}}}\n")
    assert main(["listen", "-c", str(tmp_path / "app.yaml"), "-l", "WARN"]) == 3
    said = capsys.readouterr().err
    assert "TLS_INVALID: listener.query: cannot read ca: No such file" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"certificate": "client.pem", "key": "client.key"}, "query: certificate without ca"),
        ({"ca": "ca.pem", "key": "client.key"}, "query: expected both certificate and key"),
    ],
)
def test_settings_that_would_ask_in_the_clear_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Query("PACS", **wrong)
