"""Destinations over TLS: what they show is checked, and what they want to see is shown; nothing is sent otherwise."""

from __future__ import annotations

import gc
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from app.pacs.credentials import check_credentials
from app.pacs.database.engine import Database
from app.pacs.database.tables import delivery
from app.pacs.deliver import Deliverer
from app.pacs.destination import Destination
from app.pacs.places import Places
from operators.errors import StartError
from tests.support.checkout import skip_or_fail
from tests.support.peer import peer
from tests.support.queued import make_results
from tests.support.tls import dicomweb, server_context
from tests.support.waiting import PATIENCE_S, until

STORESCP = Path("/usr/bin/storescp")

# pynetdicom leaves it to the garbage collector to close the socket of a connection that was refused.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Have the garbage collector do it within the test whose garbage it is."""
    yield
    gc.collect()


@pytest.fixture
def to(certificates: Path) -> Destination:
    """A destination by C-STORE that is checked, and to which our certificate is shown."""
    names = {name: str(certificates / file) for name, file in (("certificate", "client.pem"), ("key", "client.key"))}
    return Destination("PACS", ae_title="PACS", timeout_s=PATIENCE_S, ca=str(certificates / "ca.pem"), **names)


def sent(database: Database, folder: Path, destination: Destination) -> tuple[str, str | None, str | None]:
    """Send one result; what came of it."""
    places = Places(folder / "listener")
    make_results(database, places, "1.1", ["PACS"])
    assert Deliverer(database, places, destination, "CTVAE").deliver_one()
    return told(database)


def told(database: Database) -> tuple[str, str | None, str | None]:
    """State, status and reason of the only delivery."""
    columns = delivery.c.state, delivery.c.status, delivery.c.reason
    with database.read() as connection:
        return tuple(connection.execute(select(*columns)).one())


def test_dcmtk_gets_a_result_over_tls_from_a_client_whose_certificate_it_knows(
    sqlite, tmp_path, certificates, to, unused_port
):
    if not STORESCP.exists():
        skip_or_fail("no dcmtk; run .ci/programs")
    received = tmp_path / "received"
    received.mkdir()
    tls = ["+tls", certificates / "listener.key", certificates / "listener.pem", "+cf", certificates / "ca.pem"]
    command = [STORESCP, "-v", "--fork", *tls, "--output-directory", received, str(unused_port)]
    with subprocess.Popen(command, env=os.environ | {"TCP_NODELAY": "1"}, stdout=subprocess.PIPE) as scp:
        try:
            until(lambda: listens(unused_port) or scp.poll() is not None)
            assert sent(sqlite, tmp_path, replace(to, port=unused_port)) == ("sent", "0x0000", None)
        finally:
            scp.kill()
    assert len(list(received.iterdir())) == 1


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_nothing_is_sent_to_a_peer_whose_certificate_is_of_another_authority(sqlite, tmp_path, certificates, to):
    with peer(tls=server_context(certificates)) as pacs:
        other = replace(to, port=pacs.port, ca=str(certificates / "other.pem"))
        state, _, reason = sent(sqlite, tmp_path, other)
    assert state == "waiting"
    assert reason and re.fullmatch(r"NO_ASSOCIATION \(TLS failed: .*certificate verify failed.*\)", reason)
    assert pacs.stored == []


def test_a_commitment_that_tls_does_not_let_be_asked_for_says_so(sqlite, tmp_path, certificates, to):
    with peer(tls=server_context(certificates)) as pacs:
        here = replace(to, port=pacs.port, commitment=True)
        assert sent(sqlite, tmp_path, here)[0] == "sent"
        Deliverer(
            sqlite, Places(tmp_path / "listener"), replace(here, ca=str(certificates / "other.pem")), "CTVAE"
        ).deliver_one()
    assert told(sqlite)[2].startswith("NO_ASSOCIATION (TLS failed: ")


def test_nothing_is_sent_to_a_peer_that_speaks_no_tls(sqlite, tmp_path, to):
    heard = []

    def plain(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            heard.append(connection.recv(4096))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=plain, args=(server,))
        thread.start()
        state, _, reason = sent(sqlite, tmp_path, replace(to, port=server.getsockname()[1]))
        thread.join()
    assert state == "waiting" and reason and reason.startswith("NO_ASSOCIATION (TLS failed: ")
    assert b"PACS" not in heard[0]  # a TLS hello, and no A-ASSOCIATE-RQ


@pytest.mark.parametrize(
    ("change", "ended"),
    [
        ({}, "sent, HTTP 200, None"),
        ({"ca": "other.pem"}, r"waiting, None, NO_ANSWER \(TLS failed: .*certificate verify failed.*\)"),
        ({"ca": None}, r"waiting, None, NO_ANSWER \(TLS failed: .*certificate verify failed.*\)"),
    ],
)
def test_stow_over_https_checks_the_server_and_shows_our_certificate(sqlite, tmp_path, certificates, to, change, ended):
    with dicomweb(certificates) as server:
        url = f"https://127.0.0.1:{server.server_port}/dicom-web"
        names = {name: file and str(certificates / file) for name, file in change.items()}
        said = ", ".join(map(str, sent(sqlite, tmp_path, replace(to, kind="stow", url=url, **names))))
    assert re.fullmatch(ended, said)


def test_a_server_that_wants_a_certificate_gets_none_where_none_is_set(sqlite, tmp_path, certificates, to):
    with dicomweb(certificates) as server:
        url = f"https://127.0.0.1:{server.server_port}/dicom-web"
        bare = replace(to, kind="stow", url=url, certificate=None, key=None)
        state, _, reason = sent(sqlite, tmp_path, bare)
    assert state == "waiting" and reason and reason.startswith("NO_ANSWER")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"ca": "nothing.pem"},
            "TLS_INVALID: destination PACS: cannot read ca: No such file or directory; check the path",
        ),
        ({"certificate": "listener.csr"}, "TLS_INVALID: destination PACS"),
        ({"token_file": "nothing"}, "TOKEN_UNREADABLE: cannot read token_file of destination PACS: No such file"),
    ],
)
def test_what_cannot_be_used_is_said_at_the_start(certificates, to, change, said):
    with pytest.raises(StartError, match=said):
        check_credentials(replace(to, **{name: str(certificates / file) for name, file in change.items()}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ca": None}, "certificate without ca"),
        ({"key": None}, "expected both certificate and key"),
        ({"kind": "stow", "url": "http://127.0.0.1/dicom-web"}, "a url that begins with https:"),
    ],
)
def test_settings_that_would_send_in_the_clear_are_refused(to, change, said):
    with pytest.raises(ValueError, match=said):
        replace(to, **change)


def test_a_file_that_vanishes_later_is_the_reason_of_the_delivery(sqlite, tmp_path, to):
    gone = replace(to, ca=str(tmp_path / "gone.pem"))
    assert sent(sqlite, tmp_path, gone) == ("waiting", None, "TLS_INVALID")
