"""STOW-RS, inbound: instances that a sender posts over HTTP are kept by the rules of C-STORE (PS3.18 10.5).

The body is parsed while it comes and written straight to the spool, so memory stays bounded whatever is sent.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator
from typing import Final

from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from app.pacs import trail
from app.pacs.arrivals import Origin
from app.pacs.intake import OUT_OF_RESOURCES, Intake
from app.pacs.multipart import MOST_PARTS, Malformed, TooManyParts, Upload
from app.pacs.page.dicom_json import answer_json
from app.pacs.settings import SLOW_BYTES_PER_S, Limits

SOURCE: Final = "STOW"
"""What rules (`from_ae`) name as the sender."""

UPLOADS: Final = 8
RETRY_S: Final = "10"
PIECE: Final = 1 << 20
HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Rejected(Exception):
    """A request that is answered with a status of HTTP and a line of text."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.response = PlainTextResponse(text + "\n", status, {**HEADERS, **headers})


def stow_routes(intake: Intake, token: str, limits: Limits) -> list[Route]:
    """Return the routes that take instances.

    Args:
        intake: where they go.
        token: that each request must bring.
        limits: of the time that a sender may take.
    """
    free, rejections = asyncio.Semaphore(UPLOADS), trail.Rejections()

    async def store(request: Request) -> Response:
        address = request.client.host if request.client else ""
        try:
            if not _is_allowed(request, token):
                rejections.denied(address)
                raise Rejected(401, "the bearer token is missing or wrong", **{"WWW-Authenticate": "Bearer"})
            boundary = _boundary(request)
            if free.locked():
                raise Rejected(503, f"{UPLOADS} uploads are in progress; try again", **{"Retry-After": RETRY_S})
            async with free:
                upload = Upload(intake, Origin(SOURCE, address), request.path_params.get("study"))
                try:
                    malformed = await _received(upload, request, boundary, limits)
                finally:
                    await run_in_threadpool(upload.discard)
            return _answer(upload, malformed)
        except Rejected as rejected:
            return rejected.response
        except ClientDisconnect:
            return PlainTextResponse("", 499)  # nobody hears it

    return [Route(path, store, methods=["POST"]) for path in ("/studies", "/studies/{study}")]


def _is_allowed(request: Request, token: str) -> bool:
    kind, _, offered = request.headers.get("Authorization", "").partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(offered.strip().encode(), token.encode())


def _boundary(request: Request) -> bytes:
    """Return what separates the parts.

    Raises:
        Rejected: the body is of another kind.
    """
    kind, options = parse_options_header(request.headers.get("Content-Type"))
    inner = options.get(b"type", b"application/dicom").lower()
    if kind.lower() != b"multipart/related" or inner != b"application/dicom" or request.headers.get("Content-Encoding"):
        raise Rejected(415, 'expected multipart/related; type="application/dicom", without Content-Encoding')
    if not options.get(b"boundary"):
        raise Rejected(400, "the Content-Type has no boundary")
    return options[b"boundary"]


async def _received(upload: Upload, request: Request, boundary: bytes, limits: Limits) -> bool:
    """Parse the body while it comes; whether it is malformed.

    Raises:
        Rejected: the sender is too slow, or sends too many parts.
    """
    try:
        parser = upload.parser(boundary)
        async for piece in _pieces(request, limits):
            await run_in_threadpool(parser.write, piece)
    except Malformed:
        return True
    except TooManyParts as error:
        raise Rejected(413, f"more than {MOST_PARTS} instances in one request; send them in several") from error
    return not upload.ended


async def _pieces(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """Yield the body in pieces worth a thread's while.

    Raises:
        Rejected: nothing came for `pdu_s`, or less than 1 KiB/s for `slow_s`.
    """
    stream, held, whole = request.stream(), bytearray(), False
    since, received = time.monotonic(), 0
    while not whole:
        try:
            chunk = await asyncio.wait_for(anext(stream, None), limits.pdu_s)
        except TimeoutError as error:
            raise Rejected(408, "the body was not complete in time", Connection="close") from error
        whole = chunk is None
        held += chunk or b""
        received += len(chunk or b"")
        if (waited := time.monotonic() - since) > limits.slow_s:
            if received < SLOW_BYTES_PER_S * waited:
                raise Rejected(408, "the body came too slowly", Connection="close")
            since, received = time.monotonic(), 0
        if held and (whole or len(held) >= PIECE):
            yield bytes(held)
            held.clear()


def _answer(upload: Upload, malformed: bool) -> Response:
    """Return the answer (PS3.18 10.5.3): what is stored is named, whatever the status of the whole."""
    reasons = {*upload.unnamed, *(one[2] for one in upload.failed)}
    headers = dict(HEADERS)
    if malformed or not (upload.stored or reasons):
        status = 400
    elif not reasons:
        status = 200
    elif upload.stored:
        status = 202
    elif reasons == {OUT_OF_RESOURCES}:
        status, headers["Retry-After"] = 503, RETRY_S
    else:
        status = 409
    body = answer_json(upload.stored, upload.failed, upload.unnamed)
    return Response(body, status, headers, "application/dicom+json")
