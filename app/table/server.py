"""The Structured Reports on a DICOMweb server → files in a folder, which the table then reads like any others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from dicomweb_client import DICOMwebClient
from pydicom.uid import UID, Comprehensive3DSRStorage, ComprehensiveSRStorage
from requests import RequestException

from operators.errors import StartError

PAGE: Final = 500
"""Answers that are asked for at once: a server with a million series must not send them in one piece."""

TRIES: Final = 3
WAIT_MS: Final = 100

_OURS: Final = (Comprehensive3DSRStorage, ComprehensiveSRStorage)
_STUDY, _SERIES, _INSTANCE, _SOP_CLASS = "0020000D", "0020000E", "00080018", "00080016"


def fetch_reports(url: str, token: str | None, folder: Path, on_report: Callable[[], None]) -> None:
    """Write each Comprehensive and Comprehensive 3D SR of a server into a folder, named by its UID.

    Args:
        url: of the DICOMweb service, such as `http://localhost:8042/dicom-web`.
        token: bearer token; None for none.
        folder: an existing one; what is written there names patients.
        on_report: called after each.

    Raises:
        StartError: `SERVER_FAILED`: it cannot be reached, refuses, or does not answer as DICOMweb does.
    """
    client = DICOMwebClient(url, headers={"Authorization": f"Bearer {token}"} if token else None)
    client.set_http_retry_params(max_attempts=TRIES, wait_exponential_multiplier=WAIT_MS)
    try:
        for study, series, instance in _reports(client):
            client.retrieve_instance(study, series, instance).save_as(folder / f"{instance}.dcm")
            on_report()
    except (RequestException, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        host = urlsplit(url).hostname
        status = getattr(getattr(error, "response", None), "status_code", None)
        found = f"answered {status}" if status else f"gave no DICOMweb answer ({type(error).__name__})"
        raise StartError("SERVER_FAILED", f"{host} {found}; check the URL, the network and --token-file") from error


def _reports(client: DICOMwebClient) -> Iterator[tuple[str, str, str]]:
    """The study, series and instance UID of each SR of the two classes (QIDO-RS, PS3.18 10.6)."""
    for series in _pages(lambda **page: client.search_for_series(search_filters={"Modality": "SR"}, **page)):
        of = _value(series, _STUDY), _value(series, _SERIES)
        instances = client.search_for_instances(*of, fields=["SOPClassUID"])
        for found in instances:
            uid, sop_class = _value(found, _INSTANCE), found.get(_SOP_CLASS)
            if not UID(uid).is_valid:
                raise ValueError("an instance without a valid UID")
            if sop_class is None or sop_class["Value"][0] in _OURS:
                yield (*of, uid)


def _pages(search: Callable[..., Sequence[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """All answers to a search, page by page; a server that knows no pages gives all at once, each time."""
    offset, first = 0, None
    while page := search(limit=PAGE, offset=offset):
        if page[0] == first:
            return
        yield from page
        offset, first = offset + len(page), page[0]


def _value(answer: dict[str, Any], tag: str) -> str:
    return str(answer[tag]["Value"][0])
