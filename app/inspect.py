"""The content of a folder, and what would happen to each series."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from app.read_input import OnFile, open_series
from app.settings import Settings
from models.spec import Preprocessing
from operators.build_volume import build_volume
from operators.preprocess import preprocess
from operators.read_study import Inventory
from operators.types import Outcome, Series


@dataclass(frozen=True, slots=True)
class Inspection:
    """A series, or a file that cannot be read, and what would happen to it.

    Attributes:
        description: text by which a person recognises the series.
        study_instance_uid: empty for a file.
    """

    outcome: Outcome
    description: str
    study_instance_uid: str = ""


def inspect_folder(
    folder: Path, settings: Settings, on_file: OnFile | None = None, pixels: Preprocessing | None = None
) -> list[Inspection]:
    """Return a verdict on every series of an input, the one that `encode` would reach.

    Args:
        folder: the input.
        settings: which series are selected, and how they are read.
        on_file: called with (files done, files in all) while headers are read.
        pixels: preprocessing with which to decode and resample every slice; None judges by headers alone.

    Returns:
        The files that cannot be read, then the series.
    """
    inspected: list[Inspection] = []

    def enter(inventory: Inventory) -> None:
        inspected.extend(Inspection(outcome, "a file that cannot be read") for outcome in inventory.unreadable)

    build = partial(build_volume, policy=settings.geometry)
    with open_series(folder, settings, enter, on_file) as jobs:
        for selected in jobs:
            job = selected.then("volume", build)
            ended = job.then("decode_preprocess", partial(preprocess, settings=pixels)) if pixels else job
            series = job.series
            inspected.append(Inspection(ended.ended("eligible"), _description(series), series.study_instance_uid))
    return inspected


def _description(series: Series) -> str:
    """Return modality, description and number of files."""
    if series.image:
        return f"{series.image.format} file"
    header = series.first
    words = [header.get("Modality"), header.get("SeriesDescription"), f"{len(series.files)} files"]
    return ", ".join(str(word) for word in words if word)
