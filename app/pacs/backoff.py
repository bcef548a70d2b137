"""How long to wait before the next attempt."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from app.settings_file import FORBID_UNKNOWN_KEYS


@dataclass(frozen=True, slots=True)
class Backoff:
    """A pause that doubles with each attempt, with jitter, so that what failed together does not return together.

    Attributes:
        first_s: after the first attempt.
        longest_s: no pause is longer.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN_KEYS

    first_s: float = 5.0
    longest_s: float = 600.0

    def pause_s(self, attempts: int, uniform: Callable[[float, float], float] = random.uniform) -> float:
        """Return the pause after so many attempts: between half and all of the doubled time."""
        whole = min(self.longest_s, self.first_s * 2.0 ** min(attempts - 1, 60))
        return whole * uniform(0.5, 1.0)
