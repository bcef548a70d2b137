"""Named moments at which a test ends the process as `kill -9` or a power cut would; in use they do nothing.

Each stands just before or just after an fsync, a rename or a commit. `CTVAE_KILL_AT=name` ends the process at the first
time that it passes this moment, `CTVAE_KILL_AT=name:7` at the seventh.
"""

from __future__ import annotations

import os
import signal
from itertools import count
from typing import Final

KILL_AT: Final = "CTVAE_KILL_AT"
_NAME, _, _TIME = os.environ.get(KILL_AT, "").partition(":")
_passed = count(1)


def passing(moment: str) -> None:
    """Report that the process has reached this moment.

    Args:
        moment: `part.verb.before` or `.after`, such as `queue.finish.before`.
    """
    if moment == _NAME and next(_passed) == int(_TIME or 1):
        os.kill(os.getpid(), signal.SIGKILL)
