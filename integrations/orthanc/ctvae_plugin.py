"""Orthanc plug-in: sends each CT series to `ctvae listen` when it is stable, again and again until it has arrived.

    "Plugins": ["/usr/share/orthanc/plugins/libOrthancPython.so"],
    "PythonScript": "/etc/orthanc/ctvae_plugin.py",
    "DicomModalities": {"ctvae": ["CTVAE", "10.0.0.7", 11112]},
    "Ctvae": {"Modality": "ctvae", "RetrySeconds": 30}

What waits is kept in Orthanc's database, over a restart of Orthanc. Runs in Orthanc's own Python; needs nothing else.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import orthanc

WAITING = 4747  # a global property of Orthanc's database; from 1024 on they are for plug-ins
LONGEST_PAUSE_S = 600
GIVE_UP_AFTER = 300  # attempts: about two days
CT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2",  # CT Image Storage
    "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image Storage
    "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image Storage
}


class Sender:
    """Series that wait, and the thread that sends them."""

    def __init__(self, modality: str, retry_s: float) -> None:
        self.modality, self.retry_s = modality, retry_s
        self.changed, self.stopping = threading.Condition(), False
        self.waiting: dict[str, tuple[int, float]] = {}  # series → attempts so far, time of the next one
        self.thread = threading.Thread(target=self.run)

    def start(self) -> None:
        """Go on with what waited when Orthanc ended; its database is open only once it has started."""
        for series in json.loads(orthanc.GetGlobalProperty(WAITING, "[]")):
            self.waiting.setdefault(series, (0, 0.0))
        self.thread.start()

    def add(self, series: str) -> None:
        """Have a series sent; once more, where it is being sent just now."""
        with self.changed:
            self.waiting[series] = 0, 0.0
            self.keep()
            self.changed.notify()

    def stop(self) -> None:
        """End the thread; what waits is kept."""
        with self.changed:
            self.stopping = True
            self.changed.notify()
        self.thread.join()

    def keep(self) -> None:
        """Put what waits into the database; the caller holds the lock."""
        orthanc.SetGlobalProperty(WAITING, json.dumps(sorted(self.waiting)))

    def run(self) -> None:
        """Send what is due until it is stopped."""
        while True:
            with self.changed:
                if self.stopping:
                    return
                due = min(self.waiting.items(), key=lambda one: one[1][1], default=None)
                pause = due[1][1] - time.monotonic() if due else None
                if due is None or pause > 0:
                    self.changed.wait(pause)
                    continue
            series, before = due
            wrong = self.send(series)
            with self.changed:
                if self.waiting.get(series) == before:  # else it came again meanwhile
                    self.after(series, before[0] + 1, wrong)
                self.keep()

    def after(self, series: str, attempts: int, wrong: str) -> None:
        """Enter how an attempt ended."""
        if not wrong or attempts >= GIVE_UP_AFTER:
            del self.waiting[series]
        else:
            pause = min(self.retry_s * 2 ** min(attempts - 1, 20), LONGEST_PAUSE_S)
            self.waiting[series] = attempts, time.monotonic() + pause
        if wrong:
            orthanc.LogWarning(f"ctvae: series {series} was not sent, attempt {attempts}: {wrong}")

    def send(self, series: str) -> str:
        """Send a series if it is CT; empty, or what went wrong."""
        try:
            if not is_ct(series):
                return ""
            asked = {"Resources": [series], "Synchronous": True}
            told = json.loads(orthanc.RestApiPost(f"/modalities/{self.modality}/store", json.dumps(asked)))
            failed = told.get("FailedInstancesCount", 0)
            return f"{failed} instances failed" if failed else ""
        except orthanc.OrthancException as error:
            return "" if error.args[0] == orthanc.ErrorCode.UNKNOWN_RESOURCE and gone(series) else str(error)


def is_ct(series: str) -> bool:
    """Whether a series is CT: the SR that comes back would trigger us again, and screenshots are not accepted."""
    about = json.loads(orthanc.RestApiGet(f"/series/{series}"))
    if about["MainDicomTags"].get("Modality") != "CT" or not about["Instances"]:
        return False
    sop_class = orthanc.RestApiGet(f"/instances/{about['Instances'][0]}/metadata/SopClassUid")
    return sop_class.decode() in CT_CLASSES


def gone(series: str) -> bool:
    """Whether a series was deleted."""
    try:
        orthanc.RestApiGet(f"/series/{series}")
    except orthanc.OrthancException:
        return True
    return False


settings: dict[str, Any] = json.loads(orthanc.GetConfiguration()).get("Ctvae", {})
sender = Sender(settings.get("Modality", "ctvae"), settings.get("RetrySeconds", 30))


def on_change(change: int, level: int, resource: str) -> None:
    """Hear what happens in Orthanc."""
    if change == orthanc.ChangeType.STABLE_SERIES:
        sender.add(resource)
    elif change == orthanc.ChangeType.ORTHANC_STARTED:
        sender.start()
    elif change == orthanc.ChangeType.ORTHANC_STOPPED:
        sender.stop()


orthanc.RegisterOnChangeCallback(on_change)
