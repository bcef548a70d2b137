"""What a bundle has on record about how it was made: frozen values that check themselves; JSON only in the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from models.from_json import from_json

Ended = Literal["", "finished", "early"]


@dataclass(frozen=True, slots=True)
class Case:
    """A scan that a network learned from, or was measured on.

    Attributes:
        patient: as the list or the folder calls them.
        scan: the scan's key, a digest.
        split: `train`, `calibration`, `reference` or `test`.
        source: where it comes from and under which licence.
        windows: how many it gave.
    """

    patient: str
    scan: str = ""
    split: str = ""
    source: str = ""
    windows: int = 0


@dataclass(frozen=True, slots=True)
class Parent:
    """The bundle that was fine-tuned."""

    name: str
    version: str
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class Imported:
    """The file that a bundle was imported from: `torch` or `keras`, and its SHA-256."""

    format: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured on windows that training did not see.

    Attributes:
        windows: how many.
        mae_hu: mean absolute error of the reconstruction from mu, over all voxels, the padding's air too.
        mae_body_hu: the same over the voxels above -500 HU.
        active: dimensions whose mu varies by more than 0.01 over these windows.
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
    """Where a training stood at one of its reports; see `models.training.progress.Progress`."""

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
    """How a network was made. Of an imported one most is empty: its maker knows.

    Attributes:
        command: as the card gives it: names, no places.
        notes: limits in the words of whoever trained it, a Markdown list.
        torch: its version.
        init: the bundle that was fine-tuned.
        learned_before: whom that bundle, and those before it, learned from.
        splits: how patients were drawn into splits.
        labels: label → how many scans have it.
        data: the scans.
        settings: of the training (`TrainingSettings`), as JSON has them; another version may know more or fewer.
        steps: of the optimiser.
        ended: `early` where the calibration windows got no better.
        history: some thirty reports of the training.
        figures: measured on the test patients.
        imported: the file that the weights came from.
        encoder_parameters: how many an imported encoder has.
        warnings: what whoever uses an imported encoder must know, a sentence each.
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
        """Where the scans come from, each once."""
        return tuple(sorted({case.source for case in self.data if case.source}))

    @property
    def learned(self) -> tuple[Case, ...]:
        """Whom this bundle, or any that it was fine-tuned from, has learned from; each scan once.

        Calibration patients too: an early stop chose the weights by them.
        """
        own = (case for case in self.data if case.split in ("train", "calibration"))
        return tuple({(case.patient, case.scan): case for case in (*self.learned_before, *own)}.values())

    @property
    def learned_names(self) -> frozenset[str]:
        """By what a scan of theirs is known: patients' names and scans' keys."""
        return frozenset(name for case in self.learned for name in (case.patient, case.scan) if name)

    def as_json(self) -> dict[str, object]:
        """Everything that is known, as plain JSON values."""
        return {key: value for key, value in asdict(self).items() if value not in (None, "", (), {}, 0, 0.0)}


def read_record(document: Mapping[str, object]) -> TrainingRecord:
    """Read the record that stands in a bundle's metadata, of this version of ctvae or an earlier one.

    Raises:
        ValueError: a value is not of the expected type.
    """
    given = dict(document)
    for old, name in (("imported_from", "format"), ("imported", "from")):  # as ctvae 0.1 wrote them
        former = given.get(old)
        if isinstance(former, Mapping) and name in former:
            given["imported"] = {"format": former[name], "sha256": former.get("sha256")}
    record: TrainingRecord = from_json(TrainingRecord, given)
    return record
