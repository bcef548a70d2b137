"""A multipart message of DICOM files, parsed while it comes: each part goes straight to the spool (PS3.18 8.6)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.pacs import trail
from app.pacs.arrivals import Identity, Origin
from app.pacs.incoming import Incoming
from app.pacs.intake import NOT_UNDERSTOOD, PROCESSING_FAILURE, Intake, Refused

logger = logging.getLogger(__name__)

MOST_PARTS: Final = 50_000
Malformed: Final = FormParserError
"""What the parser raises."""


class TooManyParts(Exception):
    """More instances than one message may have."""


@dataclass(slots=True)
class Upload:
    """The parts of one message, each of which is kept or refused as it ends.

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
        callbacks = {
            "on_part_begin": self._begun,
            "on_part_data": self._data,
            "on_part_end": self._part_ended,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header,
            "on_end": self._ended,
        }
        return MultipartParser(boundary, callbacks)  # type: ignore[arg-type]

    def discard(self) -> None:
        """Remove what has not wholly arrived."""
        if self._incoming is not None:
            self._incoming.discard()
            self._incoming = None

    def _begun(self) -> None:
        if len(self.stored) + len(self.failed) + len(self.unnamed) >= MOST_PARTS:
            raise TooManyParts
        self._kind, self._name, self._value, self._who = "", b"", b"", None
        self._incoming = self.intake.spool.open_incoming(swept=False)

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
            logger.warning("%s at %s: refused, %s", self.origin.calling_ae, self.origin.address, refused.why)
            trail.refused(self.origin.calling_ae, self.origin.address, refused.why)
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
            logger.info("%s at %s: kept %s", self.origin.calling_ae, self.origin.address, kept.path)
        if self._who is not None:
            self.stored.append((self._who.sop_class_uid, self._who.sop_uid))

    def _check(self, who: Identity) -> None:
        self._who = who
        if self.study_uid not in (None, who.study_uid):
            raise Refused(PROCESSING_FAILURE, "the instance is of another study than the URL")

    def _ended(self) -> None:
        self.ended = True
