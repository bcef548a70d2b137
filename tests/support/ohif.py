"""Open a study in OHIF and say what it shows. Run as a program, in a network namespace that has nothing but loopback.

    unshare -n python -m tests.support.ohif DIST FOLDER FILE...

Starts Orthanc with the files and OHIF's build in DIST before it, opens the study in Chromium, double-clicks its SRs and
prints JSON: what the image's text boxes say for each SR, what the page logged and raised. FOLDER gets `ohif0.png`, ….
"""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.support.orthanc import DICOMWEB_URL, URL, orthanc
from tests.support.waiting import PATIENCE_S

CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 1000 * PATIENCE_S
SOFTWARE_GL = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
ALL_IMAGES = "displaySetsToAllImages"
"""What OHIF's console says when the first viewport is drawn; an SR that is opened before may stay without its text."""

TRIES = 6

DICOMWEB_SOURCE = {
    "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
    "sourceName": "ohif",
    "configuration": {
        "friendlyName": "Orthanc",
        "name": "Orthanc",
        **{f"{root}Root": "/dicom-web" for root in ("wadoUri", "qido", "wado")},
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "qidoSupportsIncludeField": False,
        "supportsFuzzyMatching": False,
        "singlepart": "bulkdata,video",
    },
}
APP_CONFIG = {
    "routerBasename": None,
    "extensions": [],
    "modes": [],
    "customizationService": {},
    "showStudyList": True,
    "maxNumberOfWebWorkers": 1,
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": False,
    "investigationalUseDialog": {"option": "never"},
    "defaultDataSourceName": "ohif",
    "dataSources": [DICOMWEB_SOURCE],
}


class Site(http.server.SimpleHTTPRequestHandler):
    """OHIF's files, its settings, and Orthanc's DICOMweb on the same origin."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/dicom-web"):
            self._answer(*self._from_orthanc())
        elif self.path.startswith("/app-config.js"):
            self._answer(200, "text/javascript", f"window.config={json.dumps(APP_CONFIG)};".encode())
        else:
            if not Path(self.translate_path(self.path)).is_file():
                self.path = "/index.html"
            super().do_GET()

    def _from_orthanc(self) -> tuple[int, str, bytes]:
        headers = {"Accept": self.headers.get("Accept", "*/*"), "Host": self.headers["Host"]}
        try:
            with urllib.request.urlopen(urllib.request.Request(URL + self.path, headers=headers)) as answer:
                return answer.status, answer.headers.get("Content-Type", ""), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, "text/plain", error.read()

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main(dist: Path, folder: Path, files: list[Path]) -> None:
    """Print what OHIF shows of the SRs among the files."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with orthanc(folder), site(dist) as port:
        for file in files:
            urllib.request.urlopen(f"{URL}/instances", data=file.read_bytes()).close()
        with urllib.request.urlopen(f"{DICOMWEB_URL}/studies") as answer:
            (study,) = json.load(answer)
        uid = study["0020000D"]["Value"][0]
        found = look(f"http://127.0.0.1:{port}/viewer?StudyInstanceUIDs={uid}", folder)
    sys.stdout.write(json.dumps(found))


@contextmanager
def site(dist: Path) -> Iterator[int]:
    """OHIF before Orthanc on a free port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Site, directory=str(dist))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def look(url: str, folder: Path) -> dict[str, object]:
    """Open the study, double-click each SR (a thumbnail without an image) and read the viewport.

    On a busy machine OHIF now and then draws the images of an SR and not its text; opened again, it has it.
    """
    said: list[tuple[str, str]] = []
    lines: dict[int, list[str]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE_GL, timeout=PATIENCE_MS)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: said.append((message.type, message.text)))
        page.on("pageerror", lambda error: said.append(("pageerror", str(error))))
        page.add_init_script("localStorage.setItem('shownTours', JSON.stringify(['basicViewerTour']))")
        with page.expect_console_message(lambda message: ALL_IMAGES in message.text):
            page.goto(url, wait_until="commit")
        thumbnails = page.locator('[data-cy="study-browser-thumbnail-no-image"]')
        shown: list[str] = []
        wanted = list(range(thumbnails.count()))
        for number in wanted * TRIES:
            if lines.get(number):
                continue
            thumbnails.nth(number).dblclick()
            lines[number] = settled_text(page, shown)
            shown = lines[number] or shown
            page.screenshot(path=folder / f"ohif{number}.png")
        browser.close()
    return {"lines": list(lines.values()), "said": said}


def settled_text(page: Page, before: list[str]) -> list[str]:
    """The lines of the text boxes, once they differ from those before and stay; none where 10 s change nothing."""
    found: list[str] = []
    for _ in range(40):
        last, found = found, page.locator(".viewport-element svg text tspan").all_text_contents()
        if found and found == last and found != before:
            break
        page.wait_for_timeout(250)
    return found if found != before else []


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
