"""The log as one JSON object per line, for a program that collects logs."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any, Final

_REASON: Final = re.compile(r"([A-Z][A-Z_]{3,}): ")


class JsonLines(logging.Formatter):
    """Formats a record as one line: time, level, logger, message, and any reason code or audit event."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, in ASCII: whatever a peer sent cannot start a new line."""
        message = record.getMessage()
        line: dict[str, Any] = {
            "time": iso_time(record.created),
            "level": record.levelname,
            "logger": record.name,
        }
        if audit := getattr(record, "audit", None):
            line["audit"] = audit
        else:
            line["message"] = message
            if reason := _REASON.match(message):
                line["reason"] = reason[1]
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def iso_time(seconds: float) -> str:
    """Return a time in seconds since 1970 as UTC text, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
