"""An authority, certificates of it for a listener on 127.0.0.1 and for a client, and an authority of somebody else.

And a DICOMweb server that shows the one and wants to see the other.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from app.pacs.settings import Tls
from tests.support.checkout import skip_or_fail

_NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def make_certificates(folder: Path) -> Path:
    """Write `NAME.pem` and `NAME.key` for `ca`, `other`, `listener` and `client`."""

    def openssl(*arguments: str) -> None:
        ended = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        if ended.returncode:
            skip_or_fail(f"openssl: {ended.stderr[-200:]}")

    for name in ("ca", "other"):
        own = ("-subj", f"/CN={name}", "-days", "2", "-keyout", f"{name}.key", "-out", f"{name}.pem")
        openssl("req", "-x509", *_NEW, *own)
    for name in ("listener", "client"):
        where = ("-addext", "subjectAltName=IP:127.0.0.1")
        openssl("req", *_NEW, "-subj", f"/CN={name}", *where, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-copy_extensions", "copy")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    return folder


def listener_tls(certificates: Path) -> Tls:
    """Settings of a listener that wants a certificate of the authority."""
    return Tls(*(str(certificates / name) for name in ("listener.pem", "listener.key", "ca.pem")))


def client_context(certificates: Path, *, own: bool = True) -> ssl.SSLContext:
    """That of a client that shows a certificate of its own, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(certificates / "ca.pem")
    if own:
        context.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    return context


def server_context(certificates: Path) -> ssl.SSLContext:
    """That of a server that wants a certificate of the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "listener.pem", certificates / "listener.key")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@contextmanager
def dicomweb(certificates: Path) -> Iterator[ThreadingHTTPServer]:
    """A server that says it has what it got, and that it has nothing, to clients whose certificate it knows."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer({"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["2.25.10"]}}]}})

        def do_GET(self) -> None:
            self._answer([])

        def _answer(self, found: object) -> None:
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *about: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, address: object) -> None:
            pass  # a client that does not trust us leaves

    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = server_context(certificates).wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
