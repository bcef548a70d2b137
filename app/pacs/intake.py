"""An object that arrived, whichever way → kept on the disk with its row, or refused with a status; nothing in between.

C-STORE, STOW-RS and a watched folder all end here, so that the same instance is the same whichever way it came.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)
from sqlalchemy.exc import SQLAlchemyError

from app.pacs.arrivals import Identity, Origin, identify, is_known, record
from app.pacs.database.engine import Database
from app.pacs.incoming import Incoming
from app.pacs.spool import Kept, Spool
from operators.dicom.content_digest import content_digest
from operators.dicom.read_header import read_instance
from operators.dicom.transfer_syntaxes import COMPRESSED_SYNTAXES, NATIVE_SYNTAXES
from operators.errors import SeriesRejected
from operators.uids import file_sha256

STORED_CLASSES: Final = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
SYNTAXES: Final = (*NATIVE_SYNTAXES, *COMPRESSED_SYNTAXES)
"""Transfer syntaxes that the reader knows."""

SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
CLASS_NOT_SUPPORTED: Final = 0x0122
OUT_OF_RESOURCES: Final = 0xA700
WRONG_CLASS: Final = 0xA900
NOT_UNDERSTOOD: Final = 0xC000
Check = Callable[[Identity], None]
"""Raises `Refused` where an object is not what its sender said."""


class Refused(Exception):
    """An object that is not stored.

    Attributes:
        status: of the C-STORE response (PS3.4 B.2.3); of STOW-RS the failure reason.
        why: for the sender and the log; no patient identity.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


@dataclass(frozen=True, slots=True)
class Intake:
    """Where objects go that arrived.

    Attributes:
        spool: where they are kept.
        database: with their rows.
    """

    spool: Spool
    database: Database
    _inflating: threading.Lock = field(default_factory=threading.Lock)  # an inflated file is held in memory

    def take_in(
        self, incoming: Incoming, origin: Origin, syntax: str, check: Callable[[Identity], None]
    ) -> Kept | None:
        """Keep an object; when this returns, file and row are on the disk.

        Args:
            incoming: all of it; the caller discards it afterwards, whatever happens.
            origin: who sent it.
            syntax: its transfer syntax.
            check: raises where it is not what the sender said.

        Returns:
            The file where it is new; None where it was there already.

        Raises:
            Refused: with a status.
        """
        try:
            if incoming.refused or not self.spool.has_room():
                raise Refused(OUT_OF_RESOURCES, incoming.refused or "the disk is full")
            incoming.flush()
            with self._inflating if syntax == DeflatedExplicitVRLittleEndian else nullcontext():
                who = _identified(incoming.path)
            check(who)
            return self._kept(incoming, who, origin)
        except OSError as error:
            raise Refused(OUT_OF_RESOURCES, f"the disk: {error.strerror or type(error).__name__}") from error
        except SQLAlchemyError as error:
            raise Refused(OUT_OF_RESOURCES, f"the database: {type(error).__name__}") from error

    def take_in_file(self, incoming: Incoming, origin: Origin, check: Check) -> Kept | None:
        """Keep an object that came as a DICOM file (PS3.10), if it is CT in a transfer syntax that is read.

        Raises:
            Refused: with a status.
        """
        if not incoming.refused:
            incoming.flush()
        with self._inflating:
            syntax = transfer_syntax(incoming.path)

        def is_stored(who: Identity) -> None:
            check(who)
            if who.sop_class_uid not in STORED_CLASSES:
                raise Refused(CLASS_NOT_SUPPORTED, "the SOP class is not supported; expected CT")

        if not incoming.refused and syntax not in SYNTAXES:
            raise Refused(NOT_UNDERSTOOD, "not a DICOM file in a transfer syntax that ctvae reads")
        return self.take_in(incoming, origin, syntax, is_stored)

    def _kept(self, incoming: Incoming, who: Identity, origin: Origin) -> Kept | None:
        known, purged = is_known(self.database, incoming.path, who, incoming.digest)
        if known:
            return None
        kept, new = self.spool.keep(incoming, who.series_uid, who.sop_uid, _same_content, purged)
        there = self.spool.root / kept.path
        # Also where the file was there: its row may not be, if whoever wrote it was killed, or is at it.
        digest, size = (incoming.digest, incoming.size) if new else (file_sha256(there), there.stat().st_size)
        return kept if record(self.database, kept, who, digest, size, origin) else None


def transfer_syntax(path: Path) -> str:
    """Return the transfer syntax of a DICOM file; empty where it is none."""
    try:
        instance = read_instance(path)
    except SeriesRejected:
        return ""
    return "" if instance is None else str(instance.header.file_meta.get("TransferSyntaxUID", ""))


def _identified(path: Path) -> Identity:
    try:
        return identify(path)
    except ValueError as error:
        raise Refused(NOT_UNDERSTOOD, str(error)) from error


def _same_content(one: Path, other: Path) -> bool:
    digest = content_digest(one)
    return digest is not None and digest == content_digest(other)
