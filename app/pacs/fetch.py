"""The PACS, asked what it has of a series (C-FIND), and for what did not arrive (C-GET or C-MOVE; PS3.4 C.4)."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from app.pacs.credentials import query_tls
from app.pacs.intake import STORED_CLASSES, SYNTAXES
from app.pacs.outgoing import NoAssociation, TlsFailed, close_association, open_association
from app.pacs.settings import Query
from operators.errors import StartError

CONNECT_S: Final = 10.0
ANSWER_S: Final = 120.0
MOST_UIDS: Final = 200
"""In one request: a list of UIDs has at most 64 KiB, and a PACS may have a limit of its own."""

_LOST: Final = "the connection was lost or timed out"
_PENDING: Final = (0xFF00, 0xFF01)
_DONE: Final = (0x0000, 0xB000)  # B000: some sub-operations failed; what arrived is counted, whatever is said
_FETCHED_SYNTAXES: Final = tuple(
    one for one in SYNTAXES if one not in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)
)


class PacsAway(Exception):
    """The PACS does not answer, or not as it should; asking again later may help."""


class PacsRefused(PacsAway):
    """It answered, and refused this question: one about another series may be answered."""


@dataclass(frozen=True, slots=True)
class Pacs:
    """A PACS that can be asked.

    Attributes:
        query: where it is.
        ae_title: ours.
        store: handler of EVT_C_STORE for what a C-GET brings; returns the status.
    """

    query: Query
    ae_title: str
    store: Callable[[evt.Event], Dataset | int]

    def count(self, study_uid: str, series_uid: str) -> int:
        """Return how many instances the PACS has of a series; 0 where it does not know it.

        Raises:
            PacsAway: no answer.
        """
        wanted = _identifier("SERIES", study_uid, series_uid, NumberOfSeriesRelatedInstances=None)
        with self._associated([build_context(StudyRootQueryRetrieveInformationModelFind)]) as assoc:
            matches = [one for one in _find(assoc, wanted) if str(one.get("SeriesInstanceUID")) == series_uid]
            counts = [one.get("NumberOfSeriesRelatedInstances") for one in matches]
            # Optional (PS3.4 C.3.4); and a series that is there twice, under two patients, is counted by its instances.
            if len(counts) == 1 and isinstance(counts[0], int):
                return int(counts[0])
            return len(_instances(assoc, study_uid, series_uid)) if matches else 0

    def instances(self, study_uid: str, series_uid: str) -> frozenset[str]:
        """Return the SOP Instance UIDs of a series.

        Raises:
            PacsAway: no answer.
        """
        with self._associated([build_context(StudyRootQueryRetrieveInformationModelFind)]) as assoc:
            return _instances(assoc, study_uid, series_uid)

    def fetch(self, study_uid: str, series_uid: str, sop_uids: Sequence[str]) -> None:
        """Ask for instances; which of them came is seen by what arrived.

        Raises:
            PacsAway: no answer.
        """
        for start in range(0, len(sop_uids), MOST_UIDS):
            some = sop_uids[start : start + MOST_UIDS]
            if self.query.retrieve == "move":
                self._move(_identifier("IMAGE", study_uid, series_uid, SOPInstanceUID=list(some)))
            else:
                self._get(study_uid, series_uid, some)

    def _get(self, study_uid: str, series_uid: str, sop_uids: Sequence[str]) -> None:
        """Fetch by C-GET; where a list brings nothing, fetch its halves, since one unknown UID can spoil it."""
        arrived = 0

        def store(event: evt.Event) -> Dataset | int:
            nonlocal arrived
            answer = self.store(event)
            arrived += answer == 0
            return answer

        get = build_context(StudyRootQueryRetrieveInformationModelGet)
        stored = [build_context(uid, syntax) for uid in STORED_CLASSES for syntax in _FETCHED_SYNTAXES]
        wanted = _identifier("IMAGE", study_uid, series_uid, SOPInstanceUID=list(sop_uids))
        with self._associated([get, *stored], store) as assoc:
            status = _last_status(assoc.send_c_get(wanted, StudyRootQueryRetrieveInformationModelGet))
        if status in _DONE or arrived:
            return
        if len(sop_uids) == 1:
            return  # it stays missing, and the series incomplete
        middle = len(sop_uids) // 2
        for half in (sop_uids[:middle], sop_uids[middle:]):
            self._get(study_uid, series_uid, half)

    def _move(self, wanted: Dataset) -> None:
        with self._associated([build_context(StudyRootQueryRetrieveInformationModelMove)]) as assoc:
            answers = assoc.send_c_move(wanted, self.ae_title, StudyRootQueryRetrieveInformationModelMove)
            status = _last_status(answers)
        if status not in _DONE:
            # Orthanc answers C000 for an unknown destination, an unknown UID, and where nobody listens there.
            raise PacsRefused(f"C-MOVE ended with status 0x{status:04X}; check our AE title and port in the PACS")

    @contextmanager
    def _associated(
        self, contexts: list[PresentationContext], store: Callable[[evt.Event], Dataset | int] | None = None
    ) -> Iterator[Association]:
        ae = AE(self.ae_title)
        ae.acse_timeout, ae.connection_timeout, ae.dimse_timeout = CONNECT_S, CONNECT_S, ANSWER_S
        ae.network_timeout = ANSWER_S
        handlers: list[Any] = [(evt.EVT_C_STORE, store)] if store else []
        roles: list[Any] = [build_role(uid, scp_role=True) for uid in STORED_CLASSES] if store else []
        where, called, tls = (self.query.host, self.query.port), self.query.ae_title or "", self._tls()
        try:
            assoc = open_association(ae, where, contexts, called=called, tls=tls, handlers=handlers, roles=roles)
        except NoAssociation as error:
            raise PacsAway(_why_none(error, self.query)) from error
        try:
            if not any(one.abstract_syntax == contexts[0].abstract_syntax for one in assoc.accepted_contexts):
                raise PacsAway("the query service was not accepted; check what the PACS allows us")
            yield assoc
        except RuntimeError as error:  # pynetdicom's, where the association went between two requests
            raise PacsAway(_LOST) from error
        finally:
            close_association(assoc)

    def _tls(self) -> ssl.SSLContext | None:
        """Return the context for one association; None for plain TCP.

        Raises:
            PacsAway: a file that could be used at the start no longer can.
        """
        try:
            return query_tls(self.query)
        except StartError as error:
            raise PacsAway(str(error)) from error


def _why_none(error: NoAssociation, query: Query) -> str:
    """Return why there is no association, as far as that is known, and what to do."""
    if isinstance(error, TlsFailed):
        return f"{error}; check ca, certificate and key of listener.query, and that its port takes TLS"
    if str(error):
        return f"{error}; check host of listener.query and the name server"
    known = "that it knows ours and accepts our certificate" if query.ca else "that it knows ours and needs no TLS"
    return f"no association; check its AE title, address and port, and {known}"


def _identifier(level: str, study_uid: str, series_uid: str, **keys: Any) -> Dataset:
    wanted = Dataset()
    wanted.QueryRetrieveLevel, wanted.StudyInstanceUID, wanted.SeriesInstanceUID = level, study_uid, series_uid
    for keyword, value in keys.items():
        setattr(wanted, keyword, value)
    return wanted


def _instances(assoc: Association, study_uid: str, series_uid: str) -> frozenset[str]:
    wanted = _identifier("IMAGE", study_uid, series_uid, SOPInstanceUID="")
    return frozenset(str(one.SOPInstanceUID) for one in _find(assoc, wanted) if one.get("SOPInstanceUID"))


def _find(assoc: Association, wanted: Dataset) -> list[Dataset]:
    found = []
    for status, identifier in assoc.send_c_find(wanted, StudyRootQueryRetrieveInformationModelFind):
        code = _code(status)
        if code in _PENDING and identifier is not None:
            found.append(identifier)
        elif code != 0:
            raise PacsRefused(f"C-FIND ended with status 0x{code:04X}")
    return found


def _last_status(answers: Iterator[tuple[Dataset, Dataset | None]]) -> int:
    code = 0xC000
    for status, _ in answers:
        code = _code(status)
    return code


def _code(status: Dataset) -> int:
    if "Status" not in status:
        raise PacsAway(_LOST)
    return int(status.Status)
