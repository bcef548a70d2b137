"""A DICOMweb server that is asked again and again for series; what is not here is fetched as the server stores it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import httpx
from python_multipart.multipart import parse_options_header
from requests import Session
from requests.exceptions import SSLError
from sqlalchemy import select

from app.dicomweb import (
    INSTANCE,
    NO_ANSWER,
    SERIES,
    SOP_CLASS,
    STUDY,
    TIMEOUT_S,
    count_of,
    open_client,
    pages,
    value,
    what_failed,
)
from app.pacs.arrivals import Origin
from app.pacs.credentials import polling_tls, polling_token
from app.pacs.database.engine import AWAY
from app.pacs.database.tables import instance
from app.pacs.intake import OUT_OF_RESOURCES, STORED_CLASSES, Intake
from app.pacs.multipart import Malformed, TooManyParts, Upload
from app.pacs.service import Service
from app.pacs.spool import is_safe_uid
from app.pacs.stow import PASSING
from app.pacs.watch_settings import WatchSettings
from operators.errors import StartError

logger = logging.getLogger(__name__)

SOURCE: Final = "DICOMWEB"
"""What rules (`from_ae`) name as the sender."""

_COUNT: Final = "00201209"  # Number of Series Related Instances; servers need not say it
_AS_STORED: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_PIECE: Final = 1 << 20


class Away(Exception):
    """The server or the spool does not do what is wanted of it; asking again later may help."""


class Withheld(Away):
    """One instance cannot be had; others may."""


@dataclass(slots=True)
class Poller:
    """Asks one server.

    Attributes:
        intake: where the instances go.
        settings: with the server's URL and the query.
        service: the loop.
    """

    intake: Intake
    settings: WatchSettings
    service: Service = field(init=False)
    _refused: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Set up the loop."""
        self.service = Service("poller of the DICOMweb server", self.settings.ask_s)

    def run(self) -> None:
        """Ask again and again until the service is stopped."""
        self.service.run(self.turn)

    def turn(self) -> None:
        """Ask once; what is wrong is said once."""
        hindrance = ""
        try:
            self.step()
        except Away as error:
            hindrance = str(error)
        self.service.hindered(hindrance)

    def step(self) -> int:
        """Ask once; how many instances came.

        Raises:
            Away: what is left is fetched the next time; where it is `Withheld`, all others have come.
        """
        try:
            token, tls = polling_token(self.settings), polling_tls(self.settings)
        except StartError as error:
            raise Away(f"{error.reason}: {error.message}") from error
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        count, withheld = 0, list[Withheld]()
        with httpx.Client(timeout=TIMEOUT_S, headers=headers, verify=tls or True, trust_env=False) as http:
            for study, series, uid in self._missing(token):
                try:
                    count += self._fetched(http, study, series, uid)
                except Withheld as error:
                    withheld.append(error)
                except (Away, *AWAY):
                    raise
                except Exception as error:
                    logger.debug("an instance of the DICOMweb server", exc_info=True)
                    what = f"INTERNAL_ERROR: {type(error).__name__} at an instance of the DICOMweb server; it waits"
                    withheld.append(Withheld(what))
        if withheld:
            raise withheld[0]
        return count

    def _url(self) -> str:
        return (self.settings.url or "").rstrip("/")

    def _missing(self, token: str | None) -> Iterator[tuple[str, str, str]]:
        """Yield (study, series, instance) of what the server has and the spool never had."""
        try:  # around the questions alone: what goes wrong where an instance is taken in is not the server's fault
            with self._session() as session:
                yield from self._listed(open_client(self._url(), token, session))
        except SSLError as error:
            text = f"TLS with {urlsplit(self._url()).hostname} failed; check ca, certificate and key of listener.watch"
            raise Away(f"SERVER_FAILED: {text}") from error
        except NO_ANSWER as error:
            raise Away(f"SERVER_FAILED: {what_failed(self._url(), error)}") from error

    def _session(self) -> Session:
        session = Session()
        session.trust_env = False  # else REQUESTS_CA_BUNDLE and a proxy go before what is set here
        if self.settings.ca:
            session.verify = self.settings.ca
        if self.settings.certificate and self.settings.key:
            session.cert = (self.settings.certificate, self.settings.key)
        return session

    def _listed(self, client: Any) -> Iterator[tuple[str, str, str]]:
        filters = dict(parse_qsl(self.settings.query))
        search = partial(client.search_for_series, search_filters=filters, fields=["NumberOfSeriesRelatedInstances"])
        for found in pages(search):
            study, series = value(found, STUDY), value(found, SERIES)
            here, stated = self._here(series), count_of(found, _COUNT)
            if (stated is not None and len(here) >= stated) or not (is_safe_uid(study) and is_safe_uid(series)):
                continue
            listed = partial(client.search_for_instances, study, series)
            for one in list(pages(listed)):
                uid = value(one, INSTANCE)
                if uid not in here and is_safe_uid(uid) and value(one, SOP_CLASS) in STORED_CLASSES:
                    self.service.check_stop()
                    yield study, series, uid

    def _here(self, series_uid: str) -> frozenset[str]:
        """Return the SOP Instance UIDs that arrived of a series, purged ones too, and those that were refused."""
        mine = select(instance.c.sop_uid).where(instance.c.series_uid == series_uid)
        with self.intake.database.read() as connection:
            return frozenset(connection.execute(mine).scalars()) | self._refused.get(series_uid, set())

    def _fetched(self, http: httpx.Client, study: str, series: str, uid: str) -> bool:
        url = f"{self._url()}/studies/{study}/series/{series}/instances/{uid}"
        upload = Upload(self.intake, Origin(SOURCE, urlsplit(url).hostname or ""), study)
        try:
            with http.stream("GET", url, headers={"Accept": _AS_STORED}) as answer:
                answer.raise_for_status()
                boundary = parse_options_header(answer.headers.get("Content-Type"))[1].get(b"boundary", b"")
                parser = upload.parser(boundary)
                for piece in answer.iter_bytes(_PIECE):
                    parser.write(piece)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            of_all = status in PASSING or status > 500
            raise (Away if of_all else Withheld)(f"SERVER_FAILED: {what_failed(url, error)}") from error
        except httpx.HTTPError as error:
            raise Away(f"SERVER_FAILED: {what_failed(url, error)}") from error
        except (Malformed, TooManyParts) as error:
            raise Withheld(f"SERVER_FAILED: an answer of {urlsplit(url).hostname} cannot be read") from error
        finally:
            upload.discard()
        if OUT_OF_RESOURCES in _reasons(upload):
            raise Away("the disk is full or the database away; instances wait")
        if not upload.stored:
            self._refused.setdefault(series, set()).add(uid)
        return bool(upload.stored)


def _reasons(upload: Upload) -> Sequence[int]:
    return [*upload.unnamed, *(reason for _, _, reason in upload.failed)]
