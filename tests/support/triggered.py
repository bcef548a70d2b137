"""Run inside a namespace: a listener that an Orthanc with our script or plug-in sends to; as JSON, what arrived.

python -m tests.support.triggered FOLDER
"""

from __future__ import annotations

import json
import logging
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.pacs.database.tables import instance
from app.pacs.intake import Intake
from app.pacs.poll import Poller
from app.pacs.settings import ListenerSettings
from app.pacs.watch_settings import WatchSettings
from tests.support.checkout import ROOT
from tests.support.listeners import PATIENT, Listener, listener
from tests.support.orthanc import DICOMWEB_URL, URL, orthanc
from tests.support.tiny_ct import put, stored_values, write_tiny_ct
from tests.support.waiting import until

PORT = 11112
PYTHON_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancPython.so")
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
STABLE_S = 1
COMMON: dict[str, Any] = {"StableAge": STABLE_S, "DicomModalities": {"ctvae": ["CTVAE", "127.0.0.1", PORT]}}
LUA = COMMON | {"LuaScripts": [str(ROOT / "integrations" / "orthanc" / "ctvae.lua")]}
PLUGIN = COMMON | {
    "PythonScript": str(ROOT / "integrations" / "orthanc" / "ctvae_plugin.py"),
    "Plugins": [str(PYTHON_PLUGIN)],
    "DicomWeb": {"Enable": False},
    "Ctvae": {"RetrySeconds": 0.3},
}


def main(folder: Path) -> None:
    told = {}
    ct = write_tiny_ct(folder / "ct", stored_values(3))
    screenshot = write_tiny_ct(folder / "screenshot", stored_values(1), change=_screenshot)
    others = [*screenshot, ROOT / "tests" / "data" / "sr_version_0.1.dcm"]
    settings = replace(ListenerSettings(), port=PORT, limits=PATIENT)
    for name, about in (("lua", LUA), ("plugin", PLUGIN)):
        here = folder / name
        (here / "orthanc").mkdir(parents=True)
        with listener(here, settings, PORT) as listening, orthanc(here / "orthanc", about):
            _send(*others)
            until(_all_are_stable)
            _send(*ct)
            told[name] = {"arrived": _arrived(listening, 3), "errors": _errors(here / "orthanc" / "orthanc.log")}
    here = folder / "away"
    (here / "orthanc").mkdir(parents=True)
    log = here / "orthanc" / "orthanc.log"
    with orthanc(here / "orthanc", PLUGIN):
        _send(*ct)
        until(lambda: "was not sent" in log.read_text(errors="replace"))
    with orthanc(here / "orthanc", PLUGIN), listener(here, settings, PORT) as listening:
        told["again"] = _arrived(listening, 3)
    told["polled"] = _polled(folder / "polled", ct, others)
    json.dump(told, sys.stdout)


def _polled(here: Path, ct: list[Path], others: list[Path]) -> dict[str, Any]:
    """What a poller of Orthanc's DICOMweb takes: at first, then again, then when a slice came late; and without it."""
    (here / "orthanc").mkdir(parents=True)
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="SAID %(message)s")
    with listener(here) as listening:
        intake = Intake(listening.spool, listening.database)
        poller = Poller(intake, WatchSettings(url=DICOMWEB_URL))
        with orthanc(here / "orthanc"):
            _send(*others, *ct[:2])
            took = [poller.step(), poller.step()]
            _send(ct[2])
            took.append(poller.step())
        poller.turn()
        poller.turn()
        bytes_kept = sorted(path.read_bytes() for path in listening.spool.root.rglob("*.dcm"))
        return {
            "took": took,
            "same bytes": bytes_kept == sorted(path.read_bytes() for path in ct),
            "from": sorted({(row.calling_ae, row.sender) for row in listening.rows(instance)}),
            "said": poller.service.hindrance,
        }


def _screenshot(dataset: Any, d: int) -> None:
    uid = "1.2.826.0.1.9.1"
    put(dataset, SOPClassUID=SECONDARY_CAPTURE, SeriesInstanceUID="1.2.826.0.1.9", SOPInstanceUID=uid)
    dataset.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    dataset.file_meta.MediaStorageSOPInstanceUID = uid


def _send(*files: Path) -> None:
    for file in files:
        urllib.request.urlopen(f"{URL}/instances", data=file.read_bytes()).close()


def _all_are_stable() -> bool:
    """Whether Orthanc has told its scripts of each series."""
    with urllib.request.urlopen(f"{URL}/series?expand") as answer:
        return all(one["IsStable"] for one in json.load(answer))


def _arrived(listening: Listener, most: int) -> int:
    until(lambda: len(listening.rows(instance)) >= most)
    return len(listening.rows(instance))


def _errors(log: Path) -> list[str]:
    """What Orthanc could not do, such as send what the listener does not accept."""
    return [line for line in log.read_text(errors="replace").splitlines() if line.startswith("E")]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
