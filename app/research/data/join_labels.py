"""A file of labels, joined to the scans."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from app.research.data.csv_rows import csv_rows, filled
from app.research.data.scan import Scan
from operators.errors import StartError

logger = logging.getLogger(__name__)


def join_labels(scans: Sequence[Scan], labels: Path) -> tuple[Scan, ...]:
    """Return the scans with labels from a CSV whose first column is series_instance_uid, patient or path.

    Patients have the names in the list, or for a folder their PatientID. A label in the file replaces the list's.

    Raises:
        StartError: `BAD_LABELS`: the first column is another one, a row occurs twice, or no row matches a scan.
    """
    rows = csv_rows(labels, "BAD_LABELS")
    by = next(iter(rows[0]), "") if rows else ""
    if by not in ("series_instance_uid", "patient", "path"):
        expected = "expected series_instance_uid, patient or path, and label columns after it"
        raise StartError("BAD_LABELS", f"the first column of the labels is {by[:40]!r}; {expected}")
    given: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, 2):
        name = row.pop(by)
        if given.setdefault(name, row) is not row:
            raise StartError("BAD_LABELS", f"line {number} of the labels has a {by} for the second time; keep one")
    known = {scan.known_as.get(by, "") for scan in scans} & set(given)
    if not known:
        raise StartError("BAD_LABELS", f"none of {len(given)} labelled {by} is among {len(scans)} scans; check them")
    if len(known) < len(given):
        logger.warning("%d of %d labelled %s are not among the scans", len(given) - len(known), len(given), by)
    return tuple(
        replace(scan, labels=dict(scan.labels) | filled(given.get(scan.known_as.get(by, ""), {}))) for scan in scans
    )
