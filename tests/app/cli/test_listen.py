"""`ctvae listen` as a service starts it: it serves DICOM and its page, and ends in order."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.checkout import ROOT
from tests.support.pages import page_at
from tests.support.waiting import PATIENCE_S, until

SERVED = re.compile(r"status page on (http://127.0.0.1:\d+)/")


def test_a_listener_is_ready_when_its_page_says_so_and_ends_at_sigterm(tmp_path: Path):
    settings, log = tmp_path / "app.yaml", tmp_path / "log"
    settings.write_text(f"listener: {{folder: {tmp_path}/listener, port: 0, reserve_mb: 1, page: {{port: 0}}}}\n")
    command = [sys.executable, "-c", "import sys; from app.cli import main; sys.exit(main())", "listen", "-c", settings]
    with log.open("wb") as to, subprocess.Popen(command, cwd=ROOT, stderr=to) as service:
        try:
            until(lambda: SERVED.search(log.read_text()) or service.poll() is not None)
            found = SERVED.search(log.read_text())
            assert found, log.read_text()
            until(lambda: page_at(f"{found[1]}/readyz").status_code == 200)
            assert "Nothing failed." in page_at(found[1]).text
            service.send_signal(signal.SIGTERM)
            assert service.wait(PATIENCE_S) == 0, log.read_text()
        finally:
            service.kill()
