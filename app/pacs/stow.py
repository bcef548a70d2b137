"""One SR to one DICOMweb server by STOW-RS (PS3.18 10.5)."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Final

import httpx
from pydicom import dcmread

from app.no_answer import why_no_answer
from app.pacs.credentials import bearer_token, client_tls
from app.pacs.destination import Destination
from app.pacs.judge import Answer, Verdict, judged

REFERENCED, FAILED, FAILURE_REASON, SOP_UID = "00081199", "00081198", "00081197", "00081155"
PASSING: Final = (401, 403, 408, 425, 429)
"""Of the moment, or of what a person mends without sending again: credentials."""


def stow(destination: Destination, path: Path) -> Answer:
    """Send a file; delivered only where the answer names it as stored, whatever the status of the whole.

    Args:
        destination: of kind `stow`.
        path: of the SR.
    """
    content = path.read_bytes()
    uid = str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
    boundary = secrets.token_hex(16)
    body = b"--%b\r\nContent-Type: application/dicom\r\n\r\n%b\r\n--%b--\r\n"
    headers = {
        "Accept": "application/dicom+json",
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
    }
    if token := bearer_token(destination):
        headers["Authorization"] = f"Bearer {token}"
    verify = client_tls(destination) or True
    url = f"{(destination.url or '').rstrip('/')}/studies"
    try:
        with httpx.Client(timeout=destination.timeout_s, verify=verify, trust_env=False) as client:
            mark = boundary.encode()
            response = client.post(url, content=body % (mark, content, mark), headers=headers)
    except (httpx.HTTPError, UnicodeError) as error:
        why = why_no_answer(error)
        if why is None and isinstance(error, UnicodeError):
            raise  # of the token, which is no fault of the server
        return Answer(Verdict.RETRY, None, f"NO_ANSWER ({why or type(error).__name__})")
    return judge_response(response.status_code, _json(response), uid)


def judge_response(status: int, answer: dict[str, Any], uid: str) -> Answer:
    """Return what an answer means for one instance.

    Args:
        status: of HTTP: 400 may come though this instance was stored, and 200 though it was not.
        answer: DICOM JSON.
        uid: of the instance.
    """
    text = f"HTTP {status}"
    if uid in _uids(answer, REFERENCED):
        return Answer(Verdict.DELIVERED, text)
    if status >= 500 or status in PASSING:
        return Answer(Verdict.RETRY, text, "REFUSED_BY_PEER")
    for one in _items(answer, FAILED):
        if uid in _values(one, SOP_UID):
            reasons = [int(value) for value in _values(one, FAILURE_REASON)]
            return judged(reasons[0]) if reasons and reasons[0] else Answer(Verdict.FINAL, text, "REFUSED_BY_PEER")
    return Answer(Verdict.FINAL, text, "NOT_NAMED_AS_STORED")


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _items(answer: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    return [one for one in _values(answer, tag) if isinstance(one, dict)]


def _uids(answer: dict[str, Any], tag: str) -> list[Any]:
    return [uid for one in _items(answer, tag) for uid in _values(one, SOP_UID)]


def _values(item: dict[str, Any], tag: str) -> list[Any]:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []
