"""What is in a folder, and what would become of each series."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from app.read_input import OnFile, open_series
from app.settings import Settings
from operators.build_volume import build_volume
from operators.read_study import Inventory
from operators.types import Outcome, Series


@dataclass(frozen=True, slots=True)
class Inspection:
    """A series, and what would become of it."""

    outcome: Outcome
    description: str


def inspect_folder(folder: Path, settings: Settings, on_file: OnFile | None = None) -> list[Inspection]:
    """Every series below a folder with the verdict of selection and geometry gate; no pixel of DICOM is decoded."""
    inspected: list[Inspection] = []

    def enter(inventory: Inventory) -> None:
        inspected.extend(Inspection(outcome, "a file that cannot be read") for outcome in inventory.unreadable)

    build = partial(build_volume, policy=settings.geometry)
    with open_series(folder, settings, enter, on_file) as jobs:
        for job in jobs:
            inspected.append(Inspection(job.then("volume", build).ended("eligible"), _description(job.series)))
    return inspected


def _description(series: Series) -> str:
    """Modality, description and number of files: what a person knows a series by."""
    if series.image:
        return f"{series.image.format} file"
    header = series.first
    words = [header.get("Modality"), header.get("SeriesDescription"), f"{len(series.files)} files"]
    return ", ".join(str(word) for word in words if word)
