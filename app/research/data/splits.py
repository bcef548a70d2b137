"""Scans into splits: no patient is in two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from app.research.data.scan import SPLITS, Scan, Split, short_digest
from models.statistics.out_of_distribution import LEAST_PATIENTS
from operators.errors import StartError

LEAST_REFERENCE: Final = LEAST_PATIENTS
"""Patients. With fewer, no conformal p-value can be as small as 0.1, so a smaller split is not drawn."""


def split_by_patient(
    scans: Sequence[Scan], *, calibration: float = 0.1, test: float = 0.2, reference: float = 0.1, seed: int = 0
) -> dict[Split, tuple[Scan, ...]]:
    """Split the scans as the list says, or else by a draw; no patient is in two splits.

    Patients are drawn in the order of a digest of their key and the seed: one more patient leaves the others where they
    are, except at a split's edge. A split that the list fills gets no other patients.

    Args:
        scans: scans of all patients.
        calibration: fraction of the patients whose split no list fixes; at least one patient.
        test: likewise.
        reference: likewise, but no patient at all if there would be fewer than `LEAST_REFERENCE`.
        seed: seed of the draw.

    Raises:
        StartError: `BAD_SPLIT`: a patient in two splits, or a split without any; `reference` may be empty.
    """
    fixed: dict[str, Split] = {}
    for scan in scans:
        if scan.split is not None and fixed.setdefault(scan.patient, scan.split) != scan.split:
            both = f"{fixed[scan.patient]} and {scan.split}"
            raise StartError("BAD_SPLIT", f"patient {scan.patient} is in {both}; put each patient into one split")
    free = sorted({scan.patient for scan in scans} - set(fixed), key=lambda patient: short_digest(str(seed), patient))
    drawn: dict[str, Split] = {}
    for split, part in (("test", test), ("calibration", calibration), ("reference", reference)):
        if split not in fixed.values():
            count = max(1, round(part * len(free)))
            if split == "reference" and count < LEAST_REFERENCE:
                continue
            patients = [patient for patient in free if patient not in drawn][:count]
            drawn |= dict.fromkeys(patients, split)  # type: ignore[arg-type]
    split_of = {patient: drawn.get(patient, "train") for patient in free} | fixed
    parts = {split: tuple(scan for scan in scans if split_of[scan.patient] == split) for split in SPLITS}
    empty = [split for split in SPLITS if not parts[split] and split != "reference"]
    if empty:
        raise StartError(
            "BAD_SPLIT", f"no patient of {len(split_of)} is in {empty[0]}; at least one in each split is needed"
        )
    return parts
