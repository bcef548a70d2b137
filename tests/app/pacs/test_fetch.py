"""What did not arrive is fetched from a real Orthanc, by C-GET and by C-MOVE; one namespace for all."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from app.pacs import fetch
from app.pacs.complete import Completer
from app.pacs.database.tables import series
from app.pacs.fetch import Pacs, PacsAway
from app.pacs.intake import Intake
from app.pacs.receive import Receiver
from app.pacs.settings import ListenerSettings, Query
from tests.support.listeners import PATIENT, listener, send
from tests.support.orthanc import AE_TITLE, DICOM_PORT, loopback, need_orthanc, orthanc
from tests.support.tiny_ct import SERIES, STUDY, stored_values, write_tiny_ct
from tests.support.waiting import PATIENCE_S

OUR_PORT = 11112
SLICES = 6


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What `main` below says of each case, in a namespace in which an Orthanc holds six slices."""
    need_orthanc()
    folder = tmp_path_factory.mktemp("fetch")
    slices = write_tiny_ct(folder / "slices", stored_values(SLICES))
    peer = {"AET": "CTVAE", "Host": "127.0.0.1", "Port": OUR_PORT}
    (folder / "orthanc").mkdir()
    with loopback() as network, orthanc(folder / "orthanc", {"DicomModalities": {"us": peer}}, network):
        network.send(*slices)
        program = f"import sys; from tests.app.pacs.test_fetch import main; main({str(folder)!r})"
        ended = network.run([sys.executable, "-W", "ignore", "-c", program])
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def main(folder: str) -> None:
    fetch.CONNECT_S = fetch.ANSWER_S = PATIENCE_S
    said = {}
    for retrieve in ("get", "move"):
        place = Path(folder) / retrieve
        place.mkdir()
        query = Query(AE_TITLE, "127.0.0.1", DICOM_PORT, retrieve, retry_s=0)
        settings = ListenerSettings(quiet_s=0, limits=PATIENT, query=query, port=OUR_PORT)
        with listener(place, settings, port=OUR_PORT) as here:
            said[retrieve] = arrived(here, settings, Path(folder) / "slices")
    sys.stdout.write(json.dumps(said))


def arrived(here, settings, slices):
    """Three of six slices are sent; the rest is fetched; then all again, with a UID that Orthanc does not know."""
    send(here.port, *sorted(slices.iterdir())[:3])
    pacs = Pacs(settings.query, "CTVAE", Receiver(Intake(here.spool, here.database)).store)
    queued = []
    completer = Completer(here.database, settings, lambda _, uid, ids: queued.append(len(ids)), pacs)
    steps = [completer.step(), completer.step()]
    (row,) = here.rows(series)
    count, unknown = pacs.count(STUDY, SERIES), pacs.count(STUDY, "1.2.3")
    held = sorted(pacs.instances(STUDY, SERIES))
    before = here.rows(series)
    try:
        pacs.fetch(STUDY, SERIES, ["1.2.3.4", *held])
        spoiled = ""
    except PacsAway as error:
        spoiled = str(error)
    return {
        "steps": steps,
        "queued": queued,
        "sender": row.source_ae,
        "counts": [count, unknown, len(held)],
        "files": len(here.files()),
        "half": len(here.half_arrived()),
        "again": here.rows(series) == before,
        "spoiled": spoiled,
    }


@pytest.mark.parametrize("retrieve", ["get", "move"])
def test_the_slices_that_did_not_arrive_are_fetched_and_the_series_is_queued_once(seen, retrieve):
    found = seen[retrieve]
    assert found["steps"] == [1, 0] and found["queued"] == [SLICES]
    assert found["files"] == SLICES and found["half"] == 0
    assert found["sender"] == "SENDER"


@pytest.mark.parametrize("retrieve", ["get", "move"])
def test_the_pacs_says_how_many_there_are_and_zero_of_what_it_does_not_know(seen, retrieve):
    assert seen[retrieve]["counts"] == [SLICES, 0, SLICES]


def test_a_uid_that_the_pacs_does_not_know_spoils_no_list_and_fetching_again_changes_nothing(seen):
    assert [(seen[retrieve]["spoiled"], seen[retrieve]["again"]) for retrieve in ("get", "move")] == [("", True)] * 2


# pynetdicom leaves a socket that was not connected to the garbage collection.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_pacs_that_is_not_there_is_away():
    pacs = Pacs(Query("NOBODY", "127.0.0.1", 1), "CTVAE", lambda event: 0)
    with pytest.raises(PacsAway, match="no association"):
        pacs.count(STUDY, SERIES)


@pytest.mark.parametrize("host", ["pacs.invalid", "a..b"], ids=["unknown", "malformed"])
def test_a_pacs_whose_name_cannot_be_resolved_is_away(no_names, host):
    pacs = Pacs(Query("PACS", host), "CTVAE", lambda event: 0)
    with pytest.raises(PacsAway, match=r"the name cannot be resolved: .*; check host of listener\.query"):
        pacs.count(STUDY, SERIES)


def test_an_association_that_is_lost_in_mid_query_is_a_pacs_that_is_away(monkeypatch):
    """It is lost between the answer that the series is there, which names no number, and the next question."""
    ae = AE("PACS")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = PATIENCE_S
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, _series_without_a_number)])
    ask = fetch._instances

    def lost(assoc, *series_of):
        assoc.abort()
        return ask(assoc, *series_of)

    monkeypatch.setattr(fetch, "_instances", lost)
    monkeypatch.setattr(fetch, "CONNECT_S", PATIENCE_S)
    pacs = Pacs(Query("PACS", "127.0.0.1", server.socket.getsockname()[1]), "CTVAE", lambda event: 0)
    try:
        with pytest.raises(PacsAway, match="lost"):
            pacs.count(STUDY, SERIES)
    finally:
        server.shutdown()


def _series_without_a_number(event):
    match = Dataset()
    match.QueryRetrieveLevel, match.SeriesInstanceUID = "SERIES", SERIES
    yield 0xFF00, match
