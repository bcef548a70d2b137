"""Section `listener.worker` of app.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from app.pacs.backoff import Backoff
from app.settings_file import FORBID_UNKNOWN_KEYS


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """When a child is replaced by a new one.

    Attributes:
        time_s: that a job may take.
        memory_mb: resident memory.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN_KEYS

    time_s: float = 1800.0
    memory_mb: int = 6144


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Section `listener.worker` of app.yaml.

    Attributes:
        lease_s: a job whose worker was killed is taken up again after so long.
        attempts: after so many that failed, a job ends as failed.
        poll_s: how often the queue is asked, where nobody says that there is something.
        limits: of time and memory.
        backoff: pauses between attempts.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN_KEYS

    lease_s: float = 60.0
    attempts: int = 5
    poll_s: float = 1.0
    limits: ChildLimits = field(default_factory=ChildLimits)
    backoff: Backoff = field(default_factory=Backoff)
