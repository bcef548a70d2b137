"""Small series of several studies, in any plane and with any header, for tests of selection."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.support.tiny_ct import AXIAL, STUDY, put, stored_values, write_tiny_ct

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


@dataclass(frozen=True)
class Tiny:
    """A series to write: the last number of its UID, its slices and what its headers say."""

    number: int
    slices: int = 5
    orientation: tuple[float, ...] = AXIAL
    study: int = 1
    says: dict[str, object] = field(default_factory=dict)

    @property
    def uid(self) -> str:
        return f"1.2.826.0.1.9.{self.number}"


def write(folder: Path, *wanted: Tiny) -> Path:
    for tiny in wanted:

        def change(dataset, d, tiny=tiny):
            put(dataset, SeriesInstanceUID=tiny.uid, SOPInstanceUID=f"{tiny.uid}.{d + 1}")
            put(dataset, StudyInstanceUID=f"{STUDY}.{tiny.study}", PatientPosition="HFS", **tiny.says)

        values = stored_values(tiny.slices, seed=tiny.number)
        write_tiny_ct(folder / str(tiny.number), values, orientation=tiny.orientation, change=change)
    return folder
