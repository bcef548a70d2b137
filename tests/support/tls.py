"""An authority, certificates of it for a listener on 127.0.0.1 and for a client, and an authority of somebody else."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

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


def server_context(certificates: Path) -> ssl.SSLContext:
    """That of a server that wants a certificate of the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "listener.pem", certificates / "listener.key")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context
