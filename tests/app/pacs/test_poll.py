"""A DICOMweb server that is polled: what is wrong is said of whoever it is wrong with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import httpx
import pytest

from app.cli import main
from app.pacs.arrivals import Identity, Origin, record
from app.pacs.credentials import check_polling
from app.pacs.database.engine import Database
from app.pacs.intake import Intake
from app.pacs.poll import Away, Poller, Withheld
from app.pacs.spool import Kept, Spool
from app.pacs.watch_settings import WatchSettings
from operators.errors import StartError
from tests.support.checkout import ROOT
from tests.support.tiny_ct import SERIES, STUDY
from tests.support.tls import dicomweb

CT = "1.2.840.10008.5.1.4.1.1.2"
UIDS = [f"{SERIES}.{number}" for number in (1, 2)]


class Server:
    """One that has a series of two instances, and answers as a client of DICOMweb gives it."""

    answer: ClassVar = {"0020000D": STUDY, "0020000E": SERIES, "00080016": CT}

    asked: ClassVar = list[dict[str, str]]()

    def search_for_series(
        self, *, offset: int, search_filters: dict[str, str] | None = None, **about: object
    ) -> list[dict]:
        self.asked.append(search_filters or {})
        return [] if offset else [{tag: {"Value": [value]} for tag, value in self.answer.items()}]

    def search_for_instances(self, study: str, series: str, *, offset: int, **about: object) -> list[dict]:
        return [one | {"00080018": {"Value": [uid]}} for one in self.search_for_series(offset=offset) for uid in UIDS]


@pytest.fixture
def poller(sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Poller:
    monkeypatch.setattr("app.pacs.poll.open_client", lambda url, token, session: Server())
    intake = Intake(Spool(tmp_path / "spool", 0, 1 << 30), sqlite)
    return Poller(intake, WatchSettings(url="http://127.0.0.1:1/dicom-web"))


def asked_of(monkeypatch: pytest.MonkeyPatch, status: int) -> list[str]:
    """Have the server answer its first instance with a status and the others with bytes that are no CT."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path.rsplit("/", 1)[-1])
        kind = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'}
        body = b"--x\r\nContent-Type: application/dicom\r\n\r\nno CT\r\n--x--\r\n"
        return httpx.Response(status if asked[-1] == UIDS[0] else 200, headers=kind, content=body)

    made = partial(httpx.Client, transport=httpx.MockTransport(answer))
    monkeypatch.setattr("app.pacs.poll.httpx.Client", made)
    return asked


def test_a_fault_of_ours_at_an_instance_is_not_said_of_the_server_and_holds_up_no_other(poller, monkeypatch):
    def broken_at_the_first(self, http: object, study: str, series: str, uid: str) -> bool:
        if uid == UIDS[0]:
            raise KeyError("a fault of ours")
        taken.append(uid)
        return True

    taken: list[str] = []
    monkeypatch.setattr(Poller, "_fetched", broken_at_the_first)
    with pytest.raises(Away, match="INTERNAL_ERROR: KeyError at an instance of the DICOMweb server; it waits"):
        poller.step()
    assert taken == UIDS[1:]


@pytest.mark.parametrize(("status", "most"), [(404, 2), (500, 2), (401, 1), (503, 1)])
def test_one_instance_that_the_server_does_not_give_holds_up_no_other(poller, monkeypatch, status, most):
    asked = asked_of(monkeypatch, status)
    with pytest.raises(Away, match=rf"SERVER_FAILED: 127\.0\.0\.1 answered {status}"):
        poller.step()
    assert asked == UIDS[:most]


def test_after_a_restore_what_the_database_does_not_know_is_fetched_and_nothing_else(poller, sqlite, monkeypatch):
    """`docs/service.md`: senders were told 0000, and do not send again what came after the backup."""

    def fetched(self, http: object, study: str, series: str, uid: str) -> bool:
        taken.append(uid)
        return True

    taken = list[str]()
    monkeypatch.setattr(Poller, "_fetched", fetched)
    monkeypatch.setattr(Server, "asked", [])
    kept = Kept(f"instances/{SERIES}/{UIDS[0]}.dcm", SERIES, UIDS[0], 0)
    record(sqlite, kept, Identity(STUDY, SERIES, UIDS[0], CT), "digest", 7, Origin("CT1", "10.0.0.7"))
    query = "Modality=CT&StudyDate=20261120-"
    Poller(poller.intake, replace(poller.settings, query=query)).step()
    assert taken == UIDS[1:] and Server.asked[0] == {"Modality": "CT", "StudyDate": "20261120-"}
    assert query in (ROOT / "docs" / "service.md").read_text()


def test_what_cannot_be_read_is_fetched_no_more(poller, monkeypatch):
    asked = asked_of(monkeypatch, 200)
    assert (poller.step(), poller.step()) == (0, 0)
    assert asked == UIDS


def test_an_answer_that_is_not_dicomweb_is_said_of_the_server(poller, monkeypatch):
    monkeypatch.setattr(Server, "answer", {})
    with pytest.raises(Away, match=r"SERVER_FAILED: 127\.0\.0\.1 gave no DICOMweb answer \(KeyError\)"):
        poller.step()


def test_a_server_that_cannot_be_reached_for_an_instance_is_said(poller):
    with pytest.raises(Away, match=r"SERVER_FAILED: 127\.0\.0\.1 gave no DICOMweb answer \(ConnectError\)"):
        poller.step()


@pytest.mark.parametrize("host", ["pacs.invalid", "a..b"], ids=["unknown", "malformed"])
def test_a_server_whose_name_cannot_be_resolved_is_said(sqlite, tmp_path, no_names, host):
    intake = Intake(Spool(tmp_path / "spool", 0, 1 << 30), sqlite)
    said = rf"SERVER_FAILED: {host} gave no DICOMweb answer \(the name cannot be resolved: .*\); check the URL"
    with pytest.raises(Away, match=said):
        Poller(intake, WatchSettings(url=f"http://{host}/dicom-web")).step()


def test_a_server_that_is_no_longer_known_by_name_when_an_instance_is_fetched_is_said(poller, no_names):
    poller.settings = replace(poller.settings, url="http://pacs.invalid/dicom-web")
    with pytest.raises(Away, match="the name cannot be resolved"):
        poller.step()


def test_a_token_that_vanishes_is_said_once_and_is_no_fault_of_the_program(sqlite, tmp_path, caplog):
    intake = Intake(Spool(tmp_path / "spool", 0, 1 << 30), sqlite)
    settings = WatchSettings(url="http://127.0.0.1:1", token_file=str(tmp_path / "nothing"))
    poller = Poller(intake, settings)
    for _ in range(2):
        poller.turn()
    said = "TOKEN_UNREADABLE: cannot read token_file of listener.watch: No such file or directory; check the path"
    assert [record.getMessage() for record in caplog.records] == [said]


@pytest.fixture
def over_tls(sqlite: Database, tmp_path: Path, certificates: Path) -> Iterator[Poller]:
    """A poller of a server with a certificate of a private authority, which wants to see ours."""
    intake = Intake(Spool(tmp_path / "spool", 0, 1 << 30), sqlite)
    names = {name: str(certificates / file) for name, file in (("certificate", "client.pem"), ("key", "client.key"))}
    with dicomweb(certificates) as server:
        url = f"https://127.0.0.1:{server.server_port}/dicom-web"
        yield Poller(intake, WatchSettings(url=url, ca=str(certificates / "ca.pem"), **names))


def test_a_server_of_a_private_authority_is_asked_and_shown_our_certificate(over_tls, monkeypatch, certificates):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "other.pem"))  # not ours to follow
    assert over_tls.step() == 0
    one = (STUDY, SERIES, UIDS[0])
    monkeypatch.setattr(Poller, "_missing", lambda self, token: [one])
    with pytest.raises(Withheld, match=r"an answer of 127\.0\.0\.1 cannot be read"):  # JSON: it was fetched over TLS
        over_tls.step()


@pytest.mark.parametrize("change", [{"ca": "other.pem"}, {"certificate": None, "key": None}])
def test_nothing_is_asked_where_one_side_does_not_trust_the_other(over_tls, certificates, change):
    names = {name: file and str(certificates / file) for name, file in change.items()}
    over_tls.settings = replace(over_tls.settings, **names)
    with pytest.raises(Away, match=r"SERVER_FAILED: (TLS with )?127\.0\.0\.1 "):
        over_tls.step()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"url": "http://127.0.0.1:1", "ca": "ca.pem"}, "watch: ca needs a url that begins with https:"),
        ({"certificate": "client.pem", "key": "client.key"}, "and ca with them"),
        ({"ca": "ca.pem", "certificate": "client.pem"}, "expected both certificate and key"),
    ],
)
def test_settings_that_would_fetch_in_the_clear_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        WatchSettings(**wrong)


def test_an_authority_that_cannot_be_read_stops_the_start():
    with pytest.raises(StartError, match=r"TLS_INVALID: listener\.watch: cannot read ca: No such file"):
        check_polling(WatchSettings(url="https://127.0.0.1:1", ca="nothing.pem"))


def test_a_token_that_is_not_there_stops_the_start(tmp_path, capsys):
    (tmp_path / "app.yaml").write_text(json.dumps({"listener": {"folder": str(tmp_path / "state")}}))
    token = ["--token-file", str(tmp_path / "nothing")]
    assert main(["watch", "http://127.0.0.1:1", *token, "-c", str(tmp_path / "app.yaml"), "-l", "WARN"]) == 3
    assert "TOKEN_UNREADABLE: cannot read token_file of listener.watch: No such file" in capsys.readouterr().err
