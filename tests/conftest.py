"""What the tests share: where real CT is, and what a skip means."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

SHARED_CT = Path(__file__).parents[2] / "shared" / "ct"


def skip_or_fail(reason: str) -> None:
    """Skip, but fail under `CTVAE_NO_SKIP=1`: in CI everything that can be tested is."""
    if os.environ.get("CTVAE_NO_SKIP") == "1":
        pytest.fail(f"would be skipped: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_ct() -> Callable[[str], Path]:
    """A folder or file of the real CT beside the checkout, by name."""

    def find(name: str) -> Path:
        found = SHARED_CT / name
        if not found.exists():
            skip_or_fail(f"no ../shared/ct/{name} beside this checkout")
        return found

    return find
