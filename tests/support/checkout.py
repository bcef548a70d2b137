"""Where the checkout is, what lies beside it, and what a skip means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED_CT = ROOT.parent / "shared" / "ct"
SHARED_FAULTS = ROOT.parent / "shared" / "faults"


def skip_or_fail(reason: str) -> None:
    """Skip, but fail under `CTVAE_NO_SKIP=1`: in CI everything that can be tested is."""
    if os.environ.get("CTVAE_NO_SKIP") == "1":
        pytest.fail(f"would be skipped: {reason}")
    pytest.skip(reason)
