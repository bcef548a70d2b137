"""`ctvae listen` as a service starts it: it serves DICOM and its page, and ends in order."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.support.checkout import ROOT


def test_a_listener_is_ready_when_its_page_says_so_and_ends_at_sigterm(tmp_path: Path):
    settings, log = tmp_path / "app.yaml", tmp_path / "log"
    settings.write_text(f"listener: {{folder: {tmp_path}/listener, port: 0, reserve_mb: 1, page: {{port: 0}}}}\n")
    command = [sys.executable, "-c", "import sys; from app.cli import main; sys.exit(main())", "listen", "-c", settings]
    with log.open("wb") as to, subprocess.Popen(command, cwd=ROOT, stderr=to) as service:
        try:
            while not (found := re.search(r"status page on (http://127.0.0.1:\d+)/", log.read_text())):
                assert service.poll() is None, log.read_text()
                time.sleep(0.05)
            assert httpx.get(f"{found[1]}/readyz").json()["database"] is True
            assert "Nothing failed." in httpx.get(found[1]).text
            service.send_signal(signal.SIGTERM)
            assert service.wait(60) == 0, log.read_text()
        finally:
            service.kill()
