"""A job of the queue as its worker sees it: what is to be done, with which files, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from app.pacs.work import Work


class LostLease(Exception):
    """Another worker has the job: this one was too slow, and must not write what it made."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A job in the hands of one worker.

    Attributes:
        token: fences off earlier leases.
        attempts: that failed before this one.
        work: what is to be done.
        findings: (code, detail) of what was met when the series arrived.
    """

    job_id: int
    token: int
    series_uid: str
    study_uid: str
    source_ae: str
    revision: int
    attempts: int
    work: Work
    findings: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Made:
    """An SR that a job made; `part` and `rank` as in the table `result`."""

    part: int | None
    job_key: str
    sr_class: str
    rank: int
    sop_class_uid: str
    sop_uid: str
    predecessor: str | None
    path: str


@dataclass(frozen=True, slots=True)
class Became:
    """What became of an instance that a job worked on: the status of the series or part that it is in."""

    instance_id: int
    part: int | None
    status: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended.

    Attributes:
        state: `done` where something was written and nothing failed; `refused` where all was rejected or skipped.
    """

    state: Literal["done", "refused", "failed"]
    reason: str | None = None
    message: str | None = None
    made: tuple[Made, ...] = ()
    became: tuple[Became, ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of the frozen list of a job; `path` is relative to the spool."""

    instance_id: int
    path: str


@dataclass(frozen=True, slots=True)
class Current:
    """A result that no other names as its predecessor; fields as in the table `result`."""

    part: int | None
    sr_class: str
    sop_uid: str
    path: str


@dataclass(frozen=True, slots=True)
class Request:
    """A job, as the process in which the network runs needs to know it.

    Attributes:
        input: folder that holds the job's files and nothing else.
        output: existing folder for the results.
        weights_sha256: of the bundle that is to be used.
        config_digest: of the configuration.
        models: path of the bundle; None for the one of the settings.
        findings: (code, detail) of the arrival, for the record.
        predecessors: (part, SOP class, path of the SR) of the current results.
    """

    input: str
    output: str
    weights_sha256: str
    config_digest: str
    models: str | None
    findings: Sequence[tuple[str, str]] = ()
    predecessors: Sequence[tuple[int | None, str, str]] = ()
