"""A Structured Report as text for a person."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from pydicom.dataset import Dataset

from operators.sr import codes as sr_codes
from operators.sr.items import children, meaning_of, name_of, value_of

DEEPEST = 16
ABRIDGED_AFTER = 4


def sr_text(document: Dataset) -> str:
    """Return the content tree for a person, indented, with long vectors and repeated parameters abridged.

    Args:
        document: any SR.
    """
    flags = ("CompletionFlag", "VerificationFlag", "PreliminaryFlag")
    states = ", ".join(str(document.get(flag)).lower() for flag in flags if document.get(flag))
    lines = [str(document.get("SeriesDescription", "")), f"{meaning_of(document)} ({states})"]
    return "\n".join([line for line in lines if line] + list(_lines(children(document), 1, set())))


def _lines(items: list[Dataset], depth: int, algorithms: set[str]) -> Iterator[str]:
    """Yield one line per item, its children below it; a run of items left out becomes one line with their number."""
    indent = "  " * depth
    for reason, run in groupby(items, lambda item: _left_out(item, algorithms)):
        alike = list(run)
        if reason and len(alike) > 1:
            yield f"{indent}… {len(alike)} more {reason}"
            continue
        for item in alike:
            number, below = item.get("ValueType") == "NUM", children(item)
            codes = [child for child in below if number and child.get("ValueType") == "CODE"]
            modifiers = "".join(f", {value_of(child)}" for child in codes)
            yield f"{indent}{meaning_of(item)}{modifiers}: {value_of(item)}".rstrip(": ")
            if not number and depth < DEEPEST:
                yield from _lines(below, depth + 1, algorithms)


def _left_out(item: Dataset, algorithms: set[str]) -> str:
    """Return why an item needs no line of its own; empty where it does."""
    scheme, value = name_of(item)
    if (scheme, value) == sr_codes.ALGORITHM_PARAMETERS:
        known = value_of(item) in algorithms
        algorithms.add(value_of(item))
        return "parameters, as above" if known else ""
    dimension = value.rpartition("-")[2]
    vector = scheme == sr_codes.SCHEME and item.get("ValueType") == "NUM" and dimension.isdecimal()
    return "numbers" if vector and int(dimension) >= ABRIDGED_AFTER else ""
