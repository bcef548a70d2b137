"""The environment of a Python process that runs our own code."""

from __future__ import annotations

import os
from pathlib import Path


def child_environment(**further: str) -> dict[str, str]:
    """Return this process's environment, with the folder of our code first on Python's path.

    The code may be a folder that Python was given, as in the container, rather than installed.

    Args:
        further: other variables to set.
    """
    path = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), **further}
