"""Debian's Orthanc for tests, in a network namespace that has nothing but loopback.

It listens on every address whatever its settings say, so it is never started anywhere else. Its peers enter the same
namespace:

    with loopback() as network, orthanc(folder, network=network):
        network.run([sys.executable, "-m", "app.cli", …])     # reaches URL and DICOM_PORT

A program that already runs in such a namespace calls `orthanc(folder)`. Ports are fixed: nobody else is there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.checkout import ROOT, skip_or_fail
from tests.support.waiting import PATIENCE_S, until

URL = "http://127.0.0.1:8042"
DICOMWEB_URL = f"{URL}/dicom-web"
AE_TITLE, DICOM_PORT = "ORTHANC", 4242
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
STARTED = "Orthanc has started"
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

SEND = """
import sys, urllib.request
for name in sys.argv[2:]:
    with open(name, "rb") as file:
        urllib.request.urlopen(sys.argv[1] + "/instances", data=file.read()).close()
"""


def need_orthanc() -> None:
    """Skip the test where a program is missing; fail in CI."""
    programs = ("Orthanc", "unshare", "nsenter", "ip")
    missing = [name for name in programs if shutil.which(name, path=PATH) is None]
    if missing or not DICOMWEB_PLUGIN.exists():
        skip_or_fail(f"no {', '.join(missing) or 'DICOMweb plug-in of Orthanc'}; run .ci/programs")


def own_network() -> list[str]:
    """Return what to put before a command so that it runs in a new network namespace; lo is down there."""
    return ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]


@dataclass(frozen=True, slots=True)
class Loopback:
    """A network namespace that has only 127.0.0.1.

    Attributes:
        pid: of the process that keeps it.
    """

    pid: int

    def command(self, command: Sequence[str | Path]) -> list[str | Path]:
        """Return the command that runs in the namespace."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", str(self.pid), *user, "--net", *command]

    def run(self, command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command there, from the root of the checkout, and return what it said."""
        options = {"cwd": ROOT, "capture_output": True, "text": True, "check": False, **options}
        return subprocess.run(self.command(command), **options)

    def send(self, *files: Path) -> None:
        """Store DICOM files in the Orthanc there."""
        self.run([sys.executable, "-c", SEND, URL, *files], check=True)


@contextmanager
def loopback() -> Iterator[Loopback]:
    """Keep a namespace until the block ends, or this process does: what keeps it reads our pipe."""
    keep = ["sh", "-c", "ip link set lo up && echo up && exec cat"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([*own_network(), *keep], text=True, env={**os.environ, "PATH": PATH}, **pipes) as keeper:
        try:
            if keeper.stdout is None or keeper.stdout.readline() != "up\n":
                raise RuntimeError("no network namespace could be made")
            yield Loopback(keeper.pid)
        finally:
            keeper.terminate()


@contextmanager
def orthanc(
    folder: Path, settings: Mapping[str, Any] | None = None, network: Loopback | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run Orthanc with its DICOMweb plug-in until the block ends.

    Args:
        folder: an existing one, for its settings, log and store; one that was used before keeps its store.
        settings: Orthanc's own, over those here, such as `{"DicomModalities": {…}}`.
        network: where it runs; None for the namespace that this process is in.

    Yields:
        The running program: a test may end it.
    """
    configuration = {
        "Name": "test",
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "HttpPort": 8042,
        "DicomAet": AE_TITLE,
        "DicomPort": DICOM_PORT,
        "DicomCheckCalledAet": False,
        "DicomScpTimeout": int(PATIENCE_S),
        "DicomScuTimeout": int(PATIENCE_S),
        "HttpTimeout": int(PATIENCE_S),
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(DICOMWEB_PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **(settings or {}),
    }
    file, log = folder / "orthanc.json", folder / "orthanc.log"
    file.write_text(json.dumps(configuration))
    command: list[str | Path] = ["Orthanc", file]
    environment = {**os.environ, "PATH": PATH, "TCP_NODELAY": "1"}
    with (
        log.open("wb") as to,
        subprocess.Popen(
            network.command(command) if network else command, stdout=to, stderr=to, env=environment
        ) as program,
    ):
        try:
            _wait_until_started(program, log)
            yield program
        finally:
            program.kill()  # asked to end, it takes three seconds; its store survives either


def _wait_until_started(program: subprocess.Popen[bytes], log: Path) -> None:
    until(lambda: STARTED in log.read_text(errors="replace") or program.poll() is not None)
    if STARTED not in (said := log.read_text(errors="replace")):
        raise RuntimeError(f"Orthanc did not start: {said[-1000:]}")
