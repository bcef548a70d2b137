"""Where the listener keeps what: one folder, readable by its owner alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from operators.results.atomic import make_folder


@dataclass(frozen=True, slots=True)
class Places:
    """The folder of a listener.

    Attributes:
        folder: all below it; several machines share it on a network file system.
    """

    folder: Path

    @property
    def spool(self) -> Path:
        """What arrived."""
        return self.folder / "spool"

    @property
    def results(self) -> Path:
        """What was made, a folder for each lease of a job."""
        return self.folder / "results"

    @property
    def work(self) -> Path:
        """Links to the files of jobs in work."""
        return self.folder / "work"

    @property
    def database_url(self) -> str:
        """Of the database, where the settings name none."""
        return f"sqlite:///{self.folder.resolve()}/queue.db"

    def make(self) -> None:
        """Make the folders, on the disk."""
        if not self.folder.exists():  # else it may lie in a folder that we cannot read
            make_folder(self.folder, 0o700)
        for folder in (self.spool, self.results, self.work):
            make_folder(folder, 0o700)
