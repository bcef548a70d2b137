"""STOW-RS, inbound: instances that a sender posts over HTTP are kept by the rules of C-STORE (PS3.18 10.5).

The body is parsed while it comes and written straight to the spool, so memory stays bounded whatever is sent.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from app.pacs import trail
from app.pacs.arrivals import Identity, Origin
from app.pacs.intake import NOT_UNDERSTOOD, OUT_OF_RESOURCES, PROCESSING_FAILURE, Intake, Refused
from app.pacs.page.dicom_json import answer_json
from app.pacs.settings import Limits
from app.pacs.spool import Incoming

logger = logging.getLogger(__name__)

SOURCE: Final = "STOW"
"""What rules (`from_ae`) name as the sender."""

UPLOADS: Final = 8
MOST_PARTS: Final = 50_000
RETRY_S: Final = "10"
SLOW_BYTES_PER_S: Final = 1024
PIECE: Final = 1 << 20
HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Rejected(Exception):
    """A request that is answered with a status of HTTP and a line of text."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.response = PlainTextResponse(text + "\n", status, {**HEADERS, **headers})


@dataclass(slots=True)
class Upload:
    """The parts of one request, each of which is kept or refused as it ends.

    Attributes:
        intake: where they go.
        origin: who sent them.
        study_uid: of the URL; None where it names none.
        stored: (SOP class, SOP instance) of those that are on the disk.
        failed: (SOP class, SOP instance, failure reason) of those that are not.
        unnamed: failure reasons of parts of which it cannot be told what they are.
    """

    intake: Intake
    origin: Origin
    study_uid: str | None
    stored: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str, int]] = field(default_factory=list)
    unnamed: list[int] = field(default_factory=list)
    ended: bool = False
    _incoming: Incoming | None = None
    _who: Identity | None = None
    _name: bytes = b""
    _value: bytes = b""
    _kind: str = ""

    def parser(self, boundary: bytes) -> MultipartParser:
        """Return the parser that calls this."""
        told = {
            "on_part_begin": self._begun,
            "on_part_data": self._data,
            "on_part_end": self._part_ended,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header,
            "on_end": self._ended,
        }
        return MultipartParser(boundary, told)  # type: ignore[arg-type]

    def discard(self) -> None:
        """Remove what has not wholly arrived."""
        if self._incoming is not None:
            self._incoming.discard()
            self._incoming = None

    def _begun(self) -> None:
        if len(self.stored) + len(self.failed) + len(self.unnamed) >= MOST_PARTS:
            raise Rejected(413, f"more than {MOST_PARTS} instances in one request; send them in several")
        self._kind, self._name, self._value, self._who = "", b"", b"", None
        self._incoming = self.intake.spool.open_incoming()
        self.intake.spool.take(self._incoming.path)  # from the sweeper, which sweeps after associations

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header(self) -> None:
        if self._name.lower() == b"content-type":
            self._kind = parse_options_header(self._value)[0].decode("latin-1").lower()
        self._name, self._value = b"", b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._incoming is not None:
            self._incoming.write(data[start:end])

    def _part_ended(self) -> None:
        try:
            self._keep()
        except Refused as refused:
            logger.warning("STOW-RS from %s: refused, %s", self.origin.address, refused.why)
            trail.refused(SOURCE, self.origin.address, refused.why)
            if self._who is None:
                self.unnamed.append(refused.status)
            else:
                self.failed.append((self._who.sop_class_uid, self._who.sop_uid, refused.status))
        finally:
            self.discard()

    def _keep(self) -> None:
        if self._incoming is None:
            return
        if self._kind != "application/dicom":
            raise Refused(NOT_UNDERSTOOD, "a part is not of type application/dicom")
        kept = self.intake.take_in_file(self._incoming, self.origin, self._check)
        if kept:
            logger.info("STOW-RS from %s: kept %s", self.origin.address, kept.path)
        if self._who is not None:
            self.stored.append((self._who.sop_class_uid, self._who.sop_uid))

    def _check(self, who: Identity) -> None:
        self._who = who
        if self.study_uid not in (None, who.study_uid):
            raise Refused(PROCESSING_FAILURE, "the instance is of another study than the URL")

    def _ended(self) -> None:
        self.ended = True


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
                raise Rejected(503, f"{UPLOADS} uploads are at work; try again", **{"Retry-After": RETRY_S})
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
    of = options.get(b"type", b"application/dicom").lower()
    if kind.lower() != b"multipart/related" or of != b"application/dicom" or request.headers.get("Content-Encoding"):
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
    except FormParserError:
        return True
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
            raise Rejected(408, "the body was not whole in time", Connection="close") from error
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
