"""A real Orthanc: it stores, answers for what it stored, loses the report, and takes STOW-RS."""

from __future__ import annotations

import json
import sys

import pytest

from tests.support.deliver_to_orthanc import MODALITIES
from tests.support.orthanc import loopback, need_orthanc, orthanc


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str | None]]:
    """What happened, by step."""
    need_orthanc()
    store, folder = tmp_path_factory.mktemp("orthanc"), tmp_path_factory.mktemp("listener")
    with loopback() as network, orthanc(store, {"DicomModalities": MODALITIES}, network):
        ran = network.run([sys.executable, "-m", "tests.support.deliver_to_orthanc", folder])
    assert ran.returncode == 0, ran.stderr
    found: dict[str, list[str | None]] = json.loads(ran.stdout)
    return found


def test_it_is_sent_when_orthanc_says_so_and_confirmed_by_its_report(told):
    assert told["stored"] == ["sent", "0x0000", None]
    assert told["reported"] == ["confirmed", "0x0000", None, "confirmed"]


def test_what_orthanc_no_longer_has_is_refused_in_the_report_and_sent_again(told):
    assert told["deleted there"] == ["waiting", "0x0112", "COMMITMENT_REFUSED"]
    assert told["sent again"] == ["confirmed", "0x0000", None]


def test_a_report_that_got_lost_is_replaced_by_a_query(told):
    assert told["no report"] == ["sent", "0x0000", None, "asked"]
    assert told["asked by query"] == ["confirmed", "0x0000", "FOUND_BY_QUERY", "unanswered"]


def test_stow_counts_what_the_answer_names_as_stored(told):
    assert told["stow"] == ["sent", "HTTP 200", None]
    assert told["stow to nobody"] == ["failed", "HTTP 404", "NOT_NAMED_AS_STORED"]


def test_orthanc_holds_each_sr_once_and_no_other(told):
    assert told["held"] == ["2.25.110", "2.25.120", "2.25.130", "2.25.140"]
