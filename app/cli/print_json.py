"""What `--json` prints, in one form for all commands."""

from __future__ import annotations

import json
import sys
from typing import Any


def print_json(document: Any) -> None:
    """Write a document to stdout as JSON."""
    sys.stdout.write(json.dumps(document, indent=1) + "\n")
