"""One volume to train on or to measure with, and the splits that it may belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from operators.types import Volume

Split = Literal["train", "calibration", "reference", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "calibration", "reference", "test")
"""To learn from; to watch the training and choose by; to recognise unlike scans later; to measure with, once."""


@dataclass(frozen=True, slots=True)
class Scan:
    """One volume to train on or to measure with.

    Attributes:
        patient: what distinguishes patients without identifying them: the name in a list, else a digest.
        split: from a list; None where it is to be drawn.
        source: from a list: collection and licence, for the model card.
        key: digest of its instances or its file: the name of its windows in the cache.
        open: reads it; raises `SeriesError`.
        labels: column → value, from a list or a file of labels; without empty values.
        stamp: digest of the sizes and modification times of its files.
        known_as: what the first column of a file of labels may call it; may hold an identity, and is never written.
    """

    patient: str
    split: Split | None
    source: str
    key: str
    open: Callable[[], Volume] = field(repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    stamp: str = ""
    known_as: Mapping[str, str] = field(default_factory=dict, repr=False)


def short_digest(*parts: str) -> str:
    """Return 16 hex digits of the SHA-256 of the parts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
