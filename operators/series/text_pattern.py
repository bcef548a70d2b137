"""Regular expressions from settings, matched against text from files, with bounded cost.

Python's engine tries one alternative after another, and a pattern such as `(a+)+b` has 2ⁿ of them in n characters. So a
pattern must be short, has at most four repeats and four choices, repeats no group that contains either, and is matched
against at most 64 characters. The worst case found took 1.2 s on one core (`a?a?a?a?a*a*a*a*b` on 64 times a).
google-re2 takes 0.03 ms for it but has no lookahead (`^(?!.*scout)`), which the SDK's rules use to exclude.
"""

from __future__ import annotations

import functools
import re
import warnings
from typing import Final

MAX_TEXT: Final = 64
"""Characters of a text that are matched: the maximum length of LO (PS3.5 6.2); SH and CS are shorter."""

MAX_PATTERN: Final = 200
MAX_REPEATS: Final = 4
MAX_CHOICES: Final = 4

# Escapes, sets, comments and flags, openings of groups, closings, quantifiers, and anything else.
_PART: Final = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?#[^)]*\)|\(\?P=\w+\)|\(\?[aiLmsux]+\)|\(\?\(\w+\)|\(\?P?<\w+>"
    r"|\(\?[aiLmsux-]*:|\(\?<?[=!]|\(\?>|\(|\)|[*+?][?+]?|\{\d*,\d*\}[?+]?|\{\d+\}|.",
    re.DOTALL,
)
_REFUSED: Final = re.compile(r"\\[1-9]|\(\?P=.*|\(\?\(.*|\(\?[aiLmsu]*x.*", re.DOTALL)


def check_pattern(pattern: str) -> None:
    """Raise if a pattern is not a valid regular expression or could take too long.

    Raises:
        ValueError: what is wrong with it; the message contains the pattern.
    """
    shown = f"pattern {pattern[:MAX_TEXT]!r}"
    if not pattern or len(pattern) > MAX_PATTERN:
        raise ValueError(f"{shown} has {len(pattern)} characters; expected 1 to {MAX_PATTERN}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # syntax whose meaning will change in a later Python
            _compiled(pattern)
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise ValueError(f"{shown} is not a regular expression: {error}") from error
    if wrong := _too_costly(pattern):
        raise ValueError(f"{shown} {wrong}")


def matches(pattern: str, text: str) -> bool:
    """Return whether a checked pattern is found in the first 64 characters of a text, ignoring case."""
    return _compiled(pattern).search(text[:MAX_TEXT]) is not None


def matches_whole(pattern: str, text: str) -> bool:
    """Return whether a checked pattern matches the whole of a short text, such as a number."""
    return len(text) <= MAX_TEXT and _compiled(pattern).fullmatch(text) is not None


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _too_costly(pattern: str) -> str | None:
    """Return what is wrong with a pattern that compiles; None where its cost is bounded."""
    repeats = choices = 0
    varied = [False]  # for each open group, whether it holds a repeat or a choice
    chosen = [True]  # for each open group, whether its alternatives are counted; outside all groups they only add up
    closed = False  # whether the part before closed such a group
    for part in _PART.findall(pattern):
        was_closed, closed = closed, False
        if _REFUSED.fullmatch(part):
            return "refers back to a group or is verbose; expected neither"
        if part.startswith("(") and not part.endswith(")"):
            varied.append(False)
            chosen.append(False)
        elif part in ")":
            closed = varied.pop()
            chosen.pop()
            varied[-1] |= closed
        elif part in "|":
            choices += not chosen[-1]
            varied[-1] = chosen[-1] = True
        elif part[0] in "*+" or (part[0] == "{" and len(part) > 1):
            if was_closed:
                return "repeats a group that itself repeats or has alternatives; such a pattern can run without end"
            repeats += not part[1:-1].isdigit()  # {3} is no choice
            varied[-1] = True
        elif part[0] == "?":
            choices, varied[-1] = choices + 1, True
    if repeats > MAX_REPEATS or choices > MAX_CHOICES:
        return (
            f"has {repeats} of * + {{}} and {choices} of ? and groups with alternatives; expected at most "
            f"{MAX_REPEATS} and {MAX_CHOICES}"
        )
    return None
