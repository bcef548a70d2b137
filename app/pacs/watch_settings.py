"""Section `listener.watch` of app.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from app.settings_file import FORBID_UNKNOWN_KEYS


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """Section `listener.watch` of app.yaml.

    Attributes:
        folder: in which another program drops CT; None for none.
        poll_s: how often it is looked into.
        settle_s: a file is taken when it did not change for so long.
        cut_off_s: one that ends before its pixels do, or before its header does, is waited for so long.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN_KEYS

    folder: str | None = None
    poll_s: float = 2.0
    settle_s: float = 5.0
    cut_off_s: float = 300.0
