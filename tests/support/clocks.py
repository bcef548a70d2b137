"""A clock that a test advances, for code that would otherwise depend on how fast the machine is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Clock:
    """Monotonic time, which takes the place of a clock function, or of the module `time` in a module under test.

    Attributes:
        now: what it shows, in seconds; a test changes it as it likes.
        step_s: by how much each reading advances it.
    """

    now: float = 0.0
    step_s: float = 0.0

    def monotonic(self) -> float:
        """Advance by a step and return the time."""
        self.now += self.step_s
        return self.now

    __call__ = perf_counter = monotonic
