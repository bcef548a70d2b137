"""The record of how a bundle was made: frozen values that check themselves; JSON only in the file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from models.from_json import from_json

Ended = Literal["", "finished", "early"]


@dataclass(frozen=True, slots=True)
class Case:
    """A scan that a network was trained or measured on.

    Attributes:
        patient: the patient's name in the list or folder.
        scan: the scan's key, a digest.
        split: `train`, `calibration`, `reference` or `test`.
        source: where the scan comes from and under which licence.
        windows: number of windows from it.
    """

    patient: str
    scan: str = ""
    split: str = ""
    source: str = ""
    windows: int = 0


def names_of(cases: Iterable[Case]) -> frozenset[str]:
    """Return the names of the patients of these cases, and the keys of their scans."""
    return frozenset(name for case in cases for name in (case.patient, case.scan) if name)


@dataclass(frozen=True, slots=True)
class Parent:
    """The bundle that was fine-tuned."""

    name: str
    version: str
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class Imported:
    """The file a bundle was imported from: `torch` or `keras`, and its SHA-256."""

    format: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured on windows that training did not see.

    Attributes:
        windows: number of windows.
        mae_hu: mean absolute error of the reconstruction from mu, over all voxels including padding.
        mae_body_hu: the same over the voxels above -500 HU.
        active: number of dimensions whose mu varies by more than 0.01 over these windows.
        kl: mean KL by dimension, nats.
        mu_variance: variance of mu by dimension.
    """

    windows: int
    mae_hu: float
    mae_body_hu: float
    active: int
    kl: tuple[float, ...]
    mu_variance: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.active <= len(self.kl):
            raise ValueError(f"{self.active} of {len(self.kl)} units are active; expected at most all of them")


@dataclass(frozen=True, slots=True)
class Report:
    """State of a training at one of its reports; see `models.training.progress.Progress`."""

    step: int
    fraction: float
    elapsed_s: float
    loss: float
    rmse: float
    kl: float
    active: int
    calibration: float | None = None


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """How a network was made. For an imported network most is empty, for only its maker knows.

    Attributes:
        command: the command as the model card shows it: names instead of paths.
        notes: limits in the words of whoever trained it, a Markdown list.
        torch: version of torch.
        init: the bundle that was fine-tuned.
        learned_before: the scans that bundle, and those before it, were trained on.
        splits: how patients were assigned to splits.
        labels: label → number of scans that have it.
        data: the scans.
        settings: settings of the training (`TrainingSettings`), as in JSON; another version may have more or fewer.
        steps: number of optimiser steps.
        ended: `early` where the calibration windows stopped improving.
        history: about thirty reports of the training.
        figures: measured on the test patients.
        imported: the file that the weights came from.
        encoder_parameters: number of parameters of an imported encoder.
        warnings: what a user of an imported encoder must know, one sentence each.
    """

    command: str = ""
    notes: str = ""
    torch: str = ""
    init: Parent | None = None
    learned_before: tuple[Case, ...] = ()
    splits: Mapping[str, object] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    data: tuple[Case, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    steps: int = 0
    elapsed_s: float = 0.0
    ended: Ended = ""
    history: tuple[Report, ...] = ()
    figures: Figures | None = None
    imported: Imported | None = None
    encoder_parameters: int = 0
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 0 or not (math.isfinite(self.elapsed_s) and self.elapsed_s >= 0):
            raise ValueError(f"{self.steps} steps in {self.elapsed_s} s; expected no negative number")

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the scans come from, each source once."""
        return tuple(sorted({case.source for case in self.data if case.source}))

    @property
    def learned(self) -> tuple[Case, ...]:
        """The scans that this bundle, or any it was fine-tuned from, has learned from; each once.

        They include calibration patients, for an early stop chose the weights by them.
        """
        own = (case for case in self.data if case.split in ("train", "calibration"))
        return tuple({(case.patient, case.scan): case for case in (*self.learned_before, *own)}.values())

    @property
    def learned_names(self) -> frozenset[str]:
        """Names of these patients, and keys of their scans."""
        return names_of(self.learned)

    def as_json(self) -> dict[str, object]:
        """Return everything that is known, as plain JSON values."""
        return {key: value for key, value in asdict(self).items() if value not in (None, "", (), {}, 0, 0.0)}


def read_record(document: Mapping[str, object]) -> TrainingRecord:
    """Return the record in a bundle's metadata, written by this version of ctvae or an earlier one.

    Raises:
        ValueError: a value does not have the expected type.
    """
    given = dict(document)
    for old, name in (("imported_from", "format"), ("imported", "from")):  # as ctvae 0.1 wrote them
        former = given.get(old)
        if isinstance(former, Mapping) and name in former:
            given["imported"] = {"format": former[name], "sha256": former.get("sha256")}
    record: TrainingRecord = from_json(TrainingRecord, given)
    return record
