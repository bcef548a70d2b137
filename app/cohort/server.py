"""The studies of a DICOMweb server: listed by QIDO-RS, and fetched by WADO-RS when they are encoded."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from app.cohort.row import Row
from app.process import starting
from operators.dicom.values import is_valid_uid
from operators.errors import RunFailed, SeriesFailed, StartError
from operators.temporary_folder import temporary_folder
from operators.types import Outcome
from operators.uids import uid_from_digest

if TYPE_CHECKING:
    from app.cohort.units import Unit

TRIES: Final = 3
WAIT_S: Final = 0.5
_INSTANCES: Final = "00201208"
"""Number of Study Related Instances."""
_AS_STORED: Final = (("application/dicom", "*"),)
"""In the transfer syntax in which the server has them: what it recodes may lose what it had."""
_BAD_UID: Final = "the server lists an instance whose UIDs are not valid, so it cannot be fetched; export it to a file"


@dataclass(frozen=True, slots=True)
class Server:
    """A DICOMweb server.

    Attributes:
        url: of the service.
        filters: of the search for studies, from the query of the URL that was given.
        token_file: holds the bearer token; read anew for each study, for tokens expire.
    """

    url: str
    filters: tuple[tuple[str, str], ...] = ()
    token_file: Path | None = None

    def count(self) -> int:
        """Return the number of instances that the server says its studies have.

        Raises:
            StartError: `SERVER_FAILED`, `NOT_ACCESSIBLE`.
        """
        from app.dicomweb import count_of

        stated = (count_of(study, _INSTANCES) for study in self._studies(self._open(), [_INSTANCES]))
        return sum(1 if count is None else count for count in stated)

    def rows(self) -> Iterator[Row | Outcome]:
        """Yield a row for each instance, in the order in which the server lists them.

        Raises:
            StartError: `SERVER_FAILED`, `NOT_ACCESSIBLE`.
        """
        from app.dicomweb import INSTANCE, NO_ANSWER, SERIES, STUDY, pages, value, what_failed

        client = self._open()
        for found in self._studies(client, []):
            try:
                study = value(found, STUDY)
                search = partial(client.search_for_instances, study, fields=["SeriesInstanceUID"])
                for one in pages(search):
                    yield _row(study, value(one, SERIES), value(one, INSTANCE))
            except NO_ANSWER as error:
                raise StartError("SERVER_FAILED", what_failed(self.url, error)) from error

    def fetched(self, unit: Unit, stack: ExitStack) -> Path:
        """Fetch the files of a unit into a folder that stays as long as the stack.

        Raises:
            SeriesFailed: `FILE_CHANGED`, `SERVER_FAILED`, `INPUT_OUTPUT_ERROR`.
            RunFailed: `SERVER_FAILED`: it cannot be reached.
        """
        folder = stack.enter_context(temporary_folder())
        wanted: dict[tuple[str, str], set[str]] = {}
        for one in unit.files:
            wanted.setdefault((one.study, one.series), set()).add(os.fsdecode(one.path))
        for (study, series), names in wanted.items():
            self._fetch(study, series, names, folder)
        return folder

    def _fetch(self, study: str, series: str, names: set[str], folder: Path) -> None:
        from requests import ConnectionError as Unreachable

        from app.dicomweb import NO_ANSWER, what_failed

        for attempt in range(1, TRIES + 1):
            try:
                self._fetch_once(study, series, names, folder)
                return
            except OSError as error:
                if not isinstance(error, NO_ANSWER):  # requests' errors are OSErrors too
                    text = (
                        f"{error.strerror or type(error).__name__} in the temporary folder; free space, or set TMPDIR"
                    )
                    raise SeriesFailed("INPUT_OUTPUT_ERROR", text) from error
                problem: Exception = error
            except NO_ANSWER as error:
                problem = error
            if attempt < TRIES:
                time.sleep(WAIT_S * 2**attempt)
        text = f"{what_failed(self.url, problem)}, then run again for the rest"
        if isinstance(problem, Unreachable) and problem.response is None:
            raise RunFailed("SERVER_FAILED", text) from problem
        raise SeriesFailed("SERVER_FAILED", text) from problem

    def _fetch_once(self, study: str, series: str, names: set[str], folder: Path) -> None:
        (folder / study / series).mkdir(parents=True, exist_ok=True)
        came: set[str] = set()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values, which may be names
            for dataset in self._open().iter_series(study, series, media_types=_AS_STORED):
                name = _name(study, series, str(dataset.SOPInstanceUID))
                if name not in names:
                    raise SeriesFailed("FILE_CHANGED", "the study grew on the server after it was listed; run again")
                dataset.save_as(folder / name)
                came.add(name)
        if came != names:
            raise ValueError(f"{len(came)} of {len(names)} instances came")

    def _open(self) -> Any:
        from app.dicomweb import open_client, read_token

        with starting():
            return open_client(self.url, read_token(self.token_file))

    def _studies(self, client: Any, fields: list[str]) -> Iterator[dict[str, Any]]:
        from app.dicomweb import NO_ANSWER, pages, what_failed

        try:
            yield from pages(partial(client.search_for_studies, search_filters=dict(self.filters), fields=fields))
        except NO_ANSWER as error:
            raise StartError("SERVER_FAILED", what_failed(self.url, error)) from error


def server_of(data: str, token_file: Path | None) -> Server | None:
    """Return the server that DATA names; None where it is a path."""
    if not data.startswith(("http://", "https://")):
        return None
    parts = urlsplit(data)
    url = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
    return Server(url, tuple(parse_qsl(parts.query)), token_file)


def _row(study: str, series: str, instance: str) -> Row | Outcome:
    name = _name(study, series, instance)
    if all(map(is_valid_uid, (study, series, instance))):
        return Row(b"", os.fsencode(name), 0, 0, "dicom", study, series, f"{study}/{series}", "")
    uid = uid_from_digest(hashlib.sha256(os.fsencode(name)).hexdigest())
    return Outcome(uid, None, "", "failed", "FILE_NOT_OPENED", _BAD_UID, file=uid)


def _name(study: str, series: str, instance: str) -> str:
    return f"{study}/{series}/{instance}.dcm"
