"""What the tests of the page share."""

from __future__ import annotations

import pytest

from tests.support.waiting import PATIENCE_S


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page closes no connection of a test that is slow to ask."""
    monkeypatch.setattr("app.pacs.page.serve.REQUEST_S", PATIENCE_S)
