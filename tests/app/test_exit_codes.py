"""The exit code of a run follows from how its series ended."""

from __future__ import annotations

import pytest

from app.exit_codes import exit_code
from operators.types import Outcome


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["written"], 0),
        (["written", "rejected", "skipped"], 0),
        (["written", "failed"], 1),
        (["failed"], 1),
        (["rejected", "skipped"], 2),
        ([], 2),
    ],
)
def test_the_exit_code_says_what_kind_of_day_it_was(statuses, code):
    reasons = [None if status == "written" else "A_REASON" for status in statuses]
    outcomes = (Outcome("1.2", None, ".", *both) for both in zip(statuses, reasons, strict=True))
    assert exit_code(outcomes) == code
