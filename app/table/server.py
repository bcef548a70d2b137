"""The Structured Reports on a DICOMweb server, as files in a folder, which the table reads like any others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from dicomweb_client import DICOMwebClient
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from app.dicomweb import INSTANCE, NO_ANSWER, SERIES, SOP_CLASS, STUDY, open_client, pages, value, what_failed
from operators.dicom.values import is_valid_uid
from operators.errors import StartError

_OURS: Final = (Comprehensive3DSRStorage, ComprehensiveSRStorage)


def fetch_reports(url: str, token: str | None, folder: Path, on_report: Callable[[], None]) -> None:
    """Write each Comprehensive and Comprehensive 3D SR of a server into a folder, named by its UID.

    Args:
        url: URL of the DICOMweb service, such as `http://localhost:8042/dicom-web`.
        token: bearer token; None for none.
        folder: an existing folder; the files written there name patients.
        on_report: called after each report.

    Raises:
        StartError: `SERVER_FAILED`: the server cannot be reached, refuses, or does not answer as DICOMweb.
    """
    try:
        client = open_client(url, token)
        for study, series, instance in _reports(client):
            client.retrieve_instance(study, series, instance).save_as(folder / f"{instance}.dcm")
            on_report()
    except NO_ANSWER as error:
        raise StartError("SERVER_FAILED", what_failed(url, error)) from error


def _reports(client: DICOMwebClient) -> Iterator[tuple[str, str, str]]:
    """Yield the study, series and instance UID of each SR of the two classes (QIDO-RS, PS3.18 10.6)."""
    for series in pages(lambda **page: client.search_for_series(search_filters={"Modality": "SR"}, **page)):
        uids = value(series, STUDY), value(series, SERIES)
        for found in pages(partial(client.search_for_instances, *uids, fields=["SOPClassUID"])):
            uid, sop_class = value(found, INSTANCE), found.get(SOP_CLASS)
            if not is_valid_uid(uid):
                raise ValueError("an instance without a valid UID")
            if sop_class is None or sop_class["Value"][0] in _OURS:
                yield (*uids, uid)
