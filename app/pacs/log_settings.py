"""Section `listener.log` of app.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from app.process import LogForm
from app.settings_file import FORBID_UNKNOWN_KEYS


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Section `listener.log` of app.yaml.

    Attributes:
        form: of the log on standard error.
        audit_file: that the events of the audit trail are appended to; None: they are lines of the log.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN_KEYS

    form: LogForm = "text"
    audit_file: str | None = None
