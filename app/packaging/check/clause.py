"""A clause: one demand on an image, as a function that returns what it found or raises what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final, TypeVar

from app.packaging.check.tree import LeavesRoot
from models.bundle.check import Verdict
from operators.printable import printable

LONGEST: Final = 300
MOST_NAMED: Final = 3


class NotHeld(Exception):
    """A demand that the image does not meet."""

    def __init__(self, found: str, expected: str, do: str) -> None:
        super().__init__(f"{found}; expected {expected}; {do}")


class CannotTell(Exception):
    """A demand that does not apply, or that cannot be judged here; the text says why."""


T = TypeVar("T")
Clause = Callable[[T], str]


def judged(clauses: Mapping[str, Clause[T]], subject: T) -> Iterator[Verdict]:
    """Judge an image, or a container of it, by each clause in turn.

    Args:
        clauses: by their code.
        subject: what they look at.
    """
    for code, clause in clauses.items():
        yield verdict(code, partial(clause, subject))


def verdict(code: str, clause: Callable[[], str]) -> Verdict:
    """Return what a clause says as one line."""
    try:
        good: bool | None = True
        detail = clause()
    except (NotHeld, LeavesRoot) as error:
        good, detail = False, str(error)
    except CannotTell as error:
        good, detail = None, str(error)
    detail = printable(detail)
    return Verdict(code, good, detail if len(detail) <= LONGEST else f"{detail[: LONGEST - 1]}…")


def named(paths: list[str]) -> str:
    """Return some paths, and how many more there are."""
    more = len(paths) - MOST_NAMED
    return ", ".join(paths[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
