"""A DICOMweb server as a client sees it: asked page by page, tried again, and named by its host alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from dicomweb_client import DICOMwebClient
from requests import RequestException, Session

from app.no_answer import why_no_answer

PAGE: Final = 500
"""Answers that are asked for at once: a server with a million series must not send them in one piece."""

TRIES: Final = 3
WAIT_MS: Final = 100
TIMEOUT_S: Final = 120.0

NO_ANSWER: Final = (RequestException, ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What the client raises where there is no answer, or one that is not DICOMweb."""

STUDY, SERIES, INSTANCE, SOP_CLASS = "0020000D", "0020000E", "00080018", "00080016"


def open_client(url: str, token: str | None, session: Session | None = None) -> DICOMwebClient:
    """Return a client that repeats what the server asks it to repeat.

    Args:
        url: of the DICOMweb service, such as `http://localhost:8042/dicom-web`.
        token: bearer token; None for none.
        session: with what TLS needs; None for one that trusts the public authorities.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else None
    client = DICOMwebClient(url, session, headers=headers, timeout=TIMEOUT_S)
    client.set_http_retry_params(max_attempts=TRIES, wait_exponential_multiplier=WAIT_MS)
    return client


def read_token(file: Path | None) -> str | None:
    """Return the bearer token that a file holds."""
    return file.read_text(encoding="utf-8").strip() if file else None


def pages(search: Callable[..., Sequence[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield all answers to a search, page by page; a server without paging gives all of them each time."""
    offset, first = 0, None
    while page := search(limit=PAGE, offset=offset):
        if page[0] == first:
            return
        yield from page
        offset, first = offset + len(page), page[0]


def value(answer: dict[str, Any], tag: str) -> str:
    """Return the first value of an attribute in an answer."""
    return str(answer[tag]["Value"][0])


def count_of(answer: dict[str, Any], tag: str) -> int | None:
    """Return a count in an answer; None where the server does not say it, for it need not."""
    try:
        return int(answer[tag]["Value"][0])
    except (LookupError, TypeError, ValueError):
        return None


def what_failed(url: str, error: Exception) -> str:
    """Return what a server did, as a message says it."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    why = why_no_answer(error) or type(error).__name__
    found = f"answered {status}" if status else f"gave no DICOMweb answer ({why})"
    return f"{urlsplit(url).hostname} {found}; check the URL, the network and --token-file"
