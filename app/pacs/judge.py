"""What an answer to a C-STORE means for what was sent: a pure function of its status (PS3.4 B.2.3, PS3.7 C)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class Verdict(Enum):
    """What is done next."""

    DELIVERED = auto()
    RETRY = auto()
    FINAL = auto()
    FALL_BACK = auto()


WARNINGS: Final = (0x0001, 0x0107, 0x0116)
SAME_INSTANCE: Final = 0x0111
NOT_SUPPORTED: Final = 0x0122
PASSING: Final = (0x0110, 0x0213)
"""Processing failure and resource limitation: of the moment, not of what was sent."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How an attempt to send ended.

    Attributes:
        status: of the peer as text, such as `0xA700` or `HTTP 503`; None where it gave none.
        reason: why it was not delivered; None where it was.
    """

    verdict: Verdict
    status: str | None = None
    reason: str | None = None


def judge(status: int) -> Verdict:
    """Return what a status of C-STORE means.

    0111, duplicate SOP instance, is success: our UID is a digest of the content, so the peer has these very bytes. What
    nobody knows is final, so that a person sees it, rather than sent again for a week.
    """
    if status == 0 or status in WARNINGS or 0xB000 <= status <= 0xBFFF or status == SAME_INSTANCE:
        return Verdict.DELIVERED
    if 0xA700 <= status <= 0xA7FF or status in PASSING:
        return Verdict.RETRY
    return Verdict.FALL_BACK if status == NOT_SUPPORTED else Verdict.FINAL


def judged(status: int, reason: str = "REFUSED_BY_PEER") -> Answer:
    """Return the answer that a status makes."""
    verdict = judge(status)
    return Answer(verdict, f"0x{status:04X}", None if verdict is Verdict.DELIVERED else reason)
