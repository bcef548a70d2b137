"""STOW-RS, inbound: what a sender posts is kept byte for byte by the rules of C-STORE, or refused with its reason."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session
from pydicom import dcmread

from app.pacs import trail
from app.pacs.database.engine import Database
from app.pacs.database.tables import instance, series
from app.pacs.destination import Destination
from app.pacs.intake import Intake
from app.pacs.judge import Verdict
from app.pacs.page.serve import page
from app.pacs.page_settings import PageSettings
from app.pacs.places import Places
from app.pacs.settings import Limits
from app.pacs.spool import Spool
from app.pacs.stow import stow
from tests.support.checkout import ROOT
from tests.support.listeners import PATIENT
from tests.support.pages import client_of
from tests.support.tiny_ct import STUDY, put, stored_values, write_tiny_ct
from tests.support.waiting import PATIENCE_S, until

# pydicom warns of values that break the rules; the listener must take them as they come.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")

TOKEN = "a token of this test"


@dataclass(frozen=True, slots=True)
class Served:
    """A listener's page that takes STOW-RS."""

    url: str
    spool: Spool
    database: Database
    client: httpx.Client

    def post(self, *parts: bytes, path: str = "/studies", headers: dict | None = None, body: bytes | None = None):
        kind = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'}
        content = body if body is not None else multipart(*parts)
        return self.client.post(path, content=content, headers=kind | (headers or {}))

    def kept(self) -> list[bytes]:
        return sorted(path.read_bytes() for path in self.spool.root.rglob("*.dcm"))

    def half_arrived(self) -> list[Path]:
        return list((self.spool.root / "incoming").iterdir())

    def rows(self, table) -> list:
        with self.database.read() as connection:
            return list(connection.execute(table.select()))


def multipart(*parts: bytes, kind: str = "application/dicom") -> bytes:
    pieces = [b"--x\r\nContent-Type: %b\r\n\r\n%b\r\n" % (kind.encode(), part) for part in parts]
    return b"".join([*pieces, b"--x--\r\n"])


def told(answer: httpx.Response, tag: str) -> list[int | str]:
    """Failure reasons, or SOP Instance UIDs, of a sequence of the answer."""
    wanted = "00081155" if tag == "00081199" else "00081197"
    return [item[wanted]["Value"][0] for item in answer.json().get(tag, {}).get("Value", [])]


@pytest.fixture
def limits() -> Limits:
    """Of the sender: those that no good one exceeds, however slow the machine."""
    return PATIENT


@pytest.fixture
def served(sqlite: Database, tmp_path: Path, limits: Limits) -> Iterator[Served]:
    (tmp_path / "token").write_text(TOKEN)
    places = Places(tmp_path / "listener")
    places.make()
    spool = Spool(places.spool, 0, 1 << 30)
    settings = PageSettings(port=0, stow_token_file=str(tmp_path / "token"))
    with (
        page(settings, sqlite, places, {}, intake=Intake(spool, sqlite), limits=limits) as port,
        client_of(port, headers={"Authorization": f"Bearer {TOKEN}"}) as client,
    ):
        yield Served(f"http://127.0.0.1:{port}", spool, sqlite, client)


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return [path.read_bytes() for path in write_tiny_ct(tmp_path_factory.mktemp("slices"), stored_values(3))]


def test_what_a_dicomweb_client_stores_is_kept_and_named(served, tmp_path):
    paths = write_tiny_ct(tmp_path / "ct", stored_values(3))
    session = create_session()
    session.headers["Authorization"] = f"Bearer {TOKEN}"
    answer = DICOMwebClient(served.url, session=session).store_instances([dcmread(path) for path in paths])
    session.close()
    assert len(answer.ReferencedSOPSequence) == 3 and "FailedSOPSequence" not in answer
    (row,) = served.rows(series)
    assert (row.study_uid, row.source_ae, row.sender, row.state) == (STUDY, "STOW", "127.0.0.1", "arriving")


def test_the_bytes_that_came_are_the_bytes_that_are_kept_and_the_same_again_changes_nothing(served, slices):
    for path in ("/studies", f"/studies/{STUDY}"):
        answer = served.post(*slices, path=path)
        assert answer.status_code == 200 and len(told(answer, "00081199")) == 3
        assert answer.headers["Content-Type"] == "application/dicom+json"
    assert served.kept() == sorted(slices) and served.half_arrived() == []
    assert len(served.rows(instance)) == 3


def test_our_own_sender_takes_the_answer_for_what_it_says(served, tmp_path, slices):
    (tmp_path / "ct.dcm").write_bytes(slices[0])
    token = str(tmp_path / "token")
    to = Destination("ctvae", kind="stow", url=served.url, token_file=token, timeout_s=PATIENCE_S)
    answer = stow(to, tmp_path / "ct.dcm")
    assert (answer.verdict, answer.status) == (Verdict.DELIVERED, "HTTP 200")
    wrong = stow(to, ROOT / "tests" / "data" / "sr_version_0.1.dcm")
    assert (wrong.verdict, wrong.status) == (Verdict.FALL_BACK, "0x0122")


def test_other_content_under_a_known_uid_is_kept_apart(served, tmp_path, slices):
    served.post(slices[0])
    (other,) = write_tiny_ct(tmp_path / "other", stored_values(1, seed=4))
    assert served.post(other.read_bytes()).status_code == 200
    assert [(row.copy, row.reason) for row in served.rows(instance)] == [(0, None), (1, "OTHER_CONTENT")]


def test_each_part_is_judged_by_itself_and_what_has_no_name_is_told_too(served, slices, tmp_path):
    (way_out,) = write_tiny_ct(tmp_path / "a", stored_values(1), change=lambda one, d: put(one, SOPInstanceUID="../x"))
    sr = (ROOT / "tests" / "data" / "sr_version_0.1.dcm").read_bytes()
    answer = served.post(slices[0], b"garbage", sr, way_out.read_bytes(), slices[1])
    assert answer.status_code == 202 and len(told(answer, "00081199")) == 2
    assert told(answer, "00081198") == [0x0122] and told(answer, "0008119A") == [0xC000, 0xC000]
    assert len(served.kept()) == 2 and served.half_arrived() == [] and not list(tmp_path.rglob("x.dcm"))
    assert served.post(b"garbage").status_code == 409


def test_an_instance_of_another_study_than_the_url_is_refused(served, slices):
    answer = served.post(slices[0], path="/studies/1.2.3")
    assert (answer.status_code, told(answer, "00081198")) == (409, [0x0110]) and served.kept() == []


def test_a_full_disk_and_a_long_object_are_a700_and_leave_nothing(served, slices):
    served.spool.reserve_bytes = 1 << 60
    answer = served.post(*slices)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    assert set(told(answer, "0008119A")) == {0xA700} and served.kept() == [] == served.half_arrived()
    served.spool.reserve_bytes, served.spool.max_object_bytes = 0, len(slices[0]) - 1
    assert told(served.post(slices[0]), "0008119A") == [0xA700]
    served.spool.max_object_bytes = 1 << 30
    assert served.post(*slices).status_code == 200


def test_nobody_gets_in_without_the_token_which_is_not_that_of_the_page(served, slices, tmp_path):
    with trail.trailing(str(tmp_path / "audit")):
        for wrong in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", "Bearer ü".encode()):
            answer = served.post(slices[0], headers={"Authorization": wrong})
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    (event,) = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert (event["reason"], event["object"]) == ("TOKEN", {"requests": 1})
    assert served.kept() == [] and served.client.post("/retry", data={"job": 1, "token": TOKEN}).status_code == 403


def test_without_a_token_file_there_is_no_stow(sqlite, tmp_path):
    places = Places(tmp_path / "listener")
    places.make()
    intake = Intake(Spool(places.spool, 0, 1 << 30), sqlite)
    with page(PageSettings(port=0), sqlite, places, {}, intake=intake) as port, client_of(port) as client:
        assert client.post("/studies", content=b"").status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/dicom"}, 415),
        ({"Content-Type": 'multipart/related; type="application/dicom+json"; boundary=x'}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "multipart/related"}, 400),
        ({"Host": "evil.example"}, 400),
    ],
)
def test_a_body_of_another_kind_is_refused_unread(served, slices, headers, status):
    assert served.post(slices[0], headers=headers).status_code == status and served.kept() == []


@pytest.mark.parametrize(
    "body", [b"", b"--y--", b"garbage", b"--x\r\n" + b"A: " + b"b" * 100_000, b"--x\r\n" + b"A: b\r\n" * 1000]
)
def test_a_malformed_body_is_answered_with_400_and_leaves_nothing_behind(served, body):
    assert served.post(body=body).status_code == 400
    assert served.kept() == [] == served.half_arrived()


def test_what_was_whole_before_a_body_broke_off_is_kept_and_named(served, slices):
    answer = served.post(body=multipart(*slices)[:-200])
    assert (answer.status_code, len(told(answer, "00081199"))) == (400, 2)
    assert served.kept() == sorted(slices[:2]) and served.half_arrived() == []


@pytest.mark.parametrize(
    ("drip", "limits"),
    [(None, replace(PATIENT, pdu_s=0.5)), (0.1, replace(PATIENT, slow_s=1.0))],
    ids=["silent", "drips"],
)
def test_a_sender_that_is_silent_or_drips_is_dropped_and_leaves_nothing(served, slices, drip):
    with socket.create_connection(("127.0.0.1", httpx.URL(served.url).port), timeout=PATIENCE_S) as peer:
        head = (
            f"POST /studies HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 1000000\r\n"
            'Content-Type: multipart/related; type="application/dicom"; boundary=x\r\n\r\n'
        )
        peer.sendall(head.encode() + multipart(slices[0])[:200])
        peer.settimeout(drip or PATIENCE_S)
        end = time.monotonic() + PATIENCE_S
        answer = b""
        while not answer and time.monotonic() < end:
            try:
                answer = peer.recv(100)
            except TimeoutError:
                peer.sendall(b"x")
    assert answer.startswith(b"HTTP/1.1 408")
    until(lambda: served.kept() == [] == served.half_arrived())
    until(lambda: served.post(*slices).status_code == 200)  # a good one, unless this machine stalls for as long
