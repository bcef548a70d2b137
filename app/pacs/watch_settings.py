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
        url: of a DICOMweb server that is asked for CT; None for none.
        query: what it is asked for, as in a URL of QIDO-RS.
        token_file: holds the bearer token for it.
        ask_s: how often it is asked.
        poll_s: how often it is looked into.
        settle_s: a file is taken when it did not change for so long.
        cut_off_s: one that ends before its pixels do, or before its header does, is waited for so long.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN_KEYS

    folder: str | None = None
    url: str | None = None
    query: str = "Modality=CT"
    token_file: str | None = None
    ask_s: float = 30.0
    poll_s: float = 2.0
    settle_s: float = 5.0
    cut_off_s: float = 300.0
