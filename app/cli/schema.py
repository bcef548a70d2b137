"""`ctvae schema`."""

from __future__ import annotations

import sys


def command() -> int:
    """Print the JSON Schema of features.json."""
    from operators.results.write_json import features_schema

    sys.stdout.write(features_schema())
    return 0
