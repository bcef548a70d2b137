"""What a peer is to be shown and has to show: TLS files of the listener and of whom it calls, and the token."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.pacs.destination import Destination
from app.pacs.settings import Query, Tls
from app.pacs.watch_settings import WatchSettings
from operators.errors import StartError
from operators.system_error import cannot_read


def client_tls(destination: Destination) -> ssl.SSLContext | None:
    """Make the TLS context for a destination; None for plain TCP.

    A destination by STOW-RS without `ca` is checked by the system's authorities.

    Raises:
        StartError: `TLS_INVALID`, where a file cannot be used.
    """
    encrypted = destination.ca is not None or (destination.url or "").startswith("https:")
    return _context(f"destination {destination.name}", destination) if encrypted else None


def polling_tls(watch: WatchSettings) -> ssl.SSLContext | None:
    """Make the TLS context for the DICOMweb server that is asked; None where `ca` is not set.

    Raises:
        StartError: `TLS_INVALID`, where a file cannot be used.
    """
    return _context("listener.watch", watch) if watch.ca else None


def query_tls(query: Query) -> ssl.SSLContext | None:
    """Make the TLS context for the PACS that is asked; None for plain TCP.

    Raises:
        StartError: `TLS_INVALID`, where a file cannot be used.
    """
    return _context("listener.query", query) if query.ca else None


def _context(whose: str, files: Destination | WatchSettings | Query) -> ssl.SSLContext:
    with usable(whose, files):
        context = ssl.create_default_context(cafile=files.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if files.certificate:
            context.load_cert_chain(files.certificate, files.key)
    return context


@contextmanager
def usable(whose: str, files: Destination | WatchSettings | Query | Tls) -> Iterator[None]:
    """Turn an error in the block, or in opening the files that it needs, into a `StartError`: `TLS_INVALID`.

    Args:
        whose: what is set up, as the settings call it.
        files: the settings that name `ca`, `certificate` and `key`.
    """
    for name, file in (("ca", files.ca), ("certificate", files.certificate), ("key", files.key)):
        try:
            if file:
                Path(file).open("rb").close()
        except OSError as error:  # OpenSSL does not tell which file
            raise StartError("TLS_INVALID", f"{whose}: {cannot_read(name, error, 'PEM')}") from error
    try:
        yield
    except OSError as error:  # an SSLError is one
        what = f"{whose}: cannot use ca, certificate or key"
        raise StartError("TLS_INVALID", f"{what} ({error.strerror or 'not PEM'}); expected PEM files") from error


def bearer_token(destination: Destination) -> str | None:
    """Read the token for a destination; None where it needs none.

    Raises:
        StartError: `TOKEN_UNREADABLE`.
    """
    return read_token(destination.token_file, f"token_file of destination {destination.name}")


def polling_token(watch: WatchSettings) -> str | None:
    """Read the token for the DICOMweb server that is asked; None where it needs none.

    Raises:
        StartError: `TOKEN_UNREADABLE`.
    """
    return read_token(watch.token_file, "token_file of listener.watch")


def read_token(file: str | None, what: str) -> str | None:
    """Read a token from a file; None where none is named.

    Args:
        file: that holds it.
        what: what the file is, as the settings call it.

    Raises:
        StartError: `TOKEN_UNREADABLE`.
    """
    if file is None:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise StartError("TOKEN_UNREADABLE", cannot_read(what, error, "text in UTF-8")) from error


def check_credentials(destination: Destination) -> None:
    """Check at the start what each delivery will need.

    Raises:
        StartError: `TLS_INVALID` or `TOKEN_UNREADABLE`.
    """
    client_tls(destination)
    bearer_token(destination)


def check_polling(watch: WatchSettings) -> None:
    """Check at the start what each question to a DICOMweb server will need.

    Raises:
        StartError: `TLS_INVALID` or `TOKEN_UNREADABLE`.
    """
    polling_tls(watch)
    polling_token(watch)
