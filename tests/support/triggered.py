"""Run inside a namespace: a listener that an Orthanc with our script or plug-in sends to; as JSON, what arrived.

python -m tests.support.triggered FOLDER
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.pacs.database.tables import instance
from app.pacs.settings import ListenerSettings
from tests.support.checkout import ROOT
from tests.support.listeners import Listener, listener
from tests.support.orthanc import URL, orthanc
from tests.support.tiny_ct import put, stored_values, write_tiny_ct

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
    settings = replace(ListenerSettings(), port=PORT)
    for name, about in (("lua", LUA), ("plugin", PLUGIN)):
        here = folder / name
        (here / "orthanc").mkdir(parents=True)
        with listener(here, settings, PORT) as listening, orthanc(here / "orthanc", about):
            _send(*others)
            time.sleep(STABLE_S + 1.5)
            _send(*ct)
            told[name] = {"arrived": _arrived(listening, 3), "errors": _errors(here / "orthanc" / "orthanc.log")}
    here = folder / "away"
    (here / "orthanc").mkdir(parents=True)
    log = here / "orthanc" / "orthanc.log"
    with orthanc(here / "orthanc", PLUGIN):
        _send(*ct)
        told["away"] = _until(lambda: "was not sent" in log.read_text(errors="replace"))
    with orthanc(here / "orthanc", PLUGIN), listener(here, settings, PORT) as listening:
        told["again"] = _arrived(listening, 3)
    json.dump(told, sys.stdout)


def _screenshot(dataset: Any, d: int) -> None:
    uid = "1.2.826.0.1.9.1"
    put(dataset, SOPClassUID=SECONDARY_CAPTURE, SeriesInstanceUID="1.2.826.0.1.9", SOPInstanceUID=uid)
    dataset.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    dataset.file_meta.MediaStorageSOPInstanceUID = uid


def _send(*files: Path) -> None:
    for file in files:
        urllib.request.urlopen(f"{URL}/instances", data=file.read_bytes()).close()


def _arrived(listening: Listener, most: int) -> int:
    _until(lambda: len(listening.rows(instance)) >= most)
    return len(listening.rows(instance))


def _errors(log: Path) -> list[str]:
    """What Orthanc could not do, such as send what the listener does not accept."""
    return [line for line in log.read_text(errors="replace").splitlines() if line.startswith("E")]


def _until(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
