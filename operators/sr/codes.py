"""What the writer and the reader of the SR share: codes, parameters and numbers.

Standard codes are those of DICOM PS3.16; the others belong to the private scheme `99CTVAE` (PS3.16 8.2: private
designators begin with 99). A code value of more than 16 characters goes into Long Code Value.
"""

from __future__ import annotations

import hashlib
import json
import re
from decimal import Decimal
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from operators.uids import uid_from_digest, values_sha256

SCHEME = "99CTVAE"
SCHEME_NAME = "ctvae: features of CT by a variational autoencoder"
MANUFACTURER = "ctvae"
NOT_FOR_DIAGNOSIS = "Not for diagnosis; computed by software, unverified"

SrClass = Literal["comprehensive_3d", "comprehensive"]
"""SOP class to write; `comprehensive` for a PACS that refuses Comprehensive 3D SR."""

Code = tuple[str, str]
"""(coding scheme designator, code value): two codes are equal if these are."""

IMAGING_MEASUREMENTS: Code = ("DCM", "126010")
QUALITATIVE_EVALUATIONS: Code = ("UMLS", "C0034375")
MEASUREMENT_GROUP: Code = ("DCM", "125007")
FINDING: Code = ("DCM", "121071")
COMMENT: Code = ("DCM", "121106")
DERIVATION: Code = ("DCM", "121401")
METHOD: Code = ("SCT", "370129005")
SERIES_INSTANCE_UID: Code = ("DCM", "112002")
TRACKING_IDENTIFIER: Code = ("DCM", "112039")
TRACKING_UID: Code = ("DCM", "112040")
ALGORITHM_NAME: Code = ("DCM", "111001")
ALGORITHM_VERSION: Code = ("DCM", "111003")
ALGORITHM_PARAMETERS: Code = ("DCM", "111002")
ALGORITHM_FAMILY: Code = ("DCM", "111000")
MEAN: Code = ("SCT", "373098007")
STANDARD_DEVIATION: Code = ("SCT", "386136009")
NO_UNITS: Code = ("UCUM", "1")
PERCENT: Code = ("UCUM", "%")

POSTERIOR_GROUP: Code = (SCHEME, "VAE-POST")
QUANTITIES_GROUP: Code = (SCHEME, "VOXEL-QUANTITIES")
TYPICALITY_GROUP: Code = (SCHEME, "TYPICALITY")
UNLISTED_VECTOR: Code = (SCHEME, "UNLISTED-VECTOR")
REAL_VOXELS: Code = (SCHEME, "REAL-VOXELS")
VERDICT: Code = (SCHEME, "VERDICT")

LISTED_DIMENSIONS = 256
"""A longer vector is not listed number by number: the SR gives its digest instead."""

POSTERIOR_TAPS = {"mu": MEAN, "sigma": STANDARD_DEVIATION}
"""Derivation of each vector; up to version 0.1 only this distinguished them, as both had the codes of the group."""

POSTERIOR_CODES: dict[str, Code] = {"mu": (SCHEME, "VAE-MU"), "sigma": (SCHEME, "VAE-SD")}

NAME = re.compile(r"[A-Za-z0-9_.-]{1,32}")
"""Name of a tap or quantity, which becomes part of a code."""


def tap_group(tap: str) -> Code:
    """Return the finding of the measurement group of a tap other than mu and sigma."""
    return (SCHEME, f"TAP-{tap}")


def dimension_code(vector: Code, dimension: int) -> Code:
    """Return the concept of one dimension of a vector, such as `VAE-MU-000`."""
    return (vector[0], f"{vector[1]}-{dimension:03d}")


def unlisted(tap: str, values: NDArray[np.float32]) -> str:
    """Return how the SR names a vector that it does not list: by the SHA-256 of its little-endian float32 values."""
    return f"{tap}: {values.size} values, SHA-256 {values_sha256(values)}"


UNLISTED = re.compile(r"(?P<tap>[A-Za-z0-9_.-]{1,32}): (?P<length>\d{1,9}) values, SHA-256 (?P<sha256>[0-9a-f]{64})")


def decimal(value: np.float32) -> str:
    """Return a finite float32 as DS (PS3.5 6.2: at most 16 characters) with the fewest digits that read back to it."""
    plain = str(value)
    return plain if len(plain) <= 16 else np.format_float_scientific(value, trim="-")


def percent(value: np.float32) -> str:
    """Return a fraction as DS in percent, exactly: the digits are those of the fraction."""
    shifted = Decimal(decimal(value)).scaleb(2)
    plain = f"{shifted:f}"
    return plain if len(plain) <= 16 else f"{shifted:E}"


def from_percent(text: str) -> np.float32:
    """Return the fraction that `percent` wrote."""
    return np.float32(str(Decimal(text).scaleb(-2)))


def derived_uid(*parts: str | int | None) -> str:
    """Return a UID below 2.25 (PS3.5 B.2) from the SHA-256 of its parts: equal parts give equal UIDs."""
    return uid_from_digest(hashlib.sha256(json.dumps(parts).encode()).hexdigest())
