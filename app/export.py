"""From a folder of CT to NIfTI for viewing: the volumes as they were read, and the windows that the encoder sees."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from app.exit_codes import exit_code
from app.ledger import Ledger, Results
from app.open_bundle import open_scan_bundle
from app.read_input import open_series
from app.settings import RunPaths, Settings
from models.spec import Preprocessing
from operators.build_volume import build_volume
from operators.job import Job
from operators.preprocess import preprocess
from operators.results.write_nifti import remove_nifti, write_volume_nifti, write_windows_nifti
from operators.types import Volume
from operators.write_features import series_folder

NIFTI: Final = Results("outcome.export.json", None, remove_nifti, ".*.nii.gz.*")


def export_folder(paths: RunPaths, settings: Settings, *, windows: bool = False) -> int:
    """Export every series that passes the gate, with progress and a ledger: what `ctvae export` does.

    Args:
        paths: paths of the run.
        settings: which series are selected, and how they are read.
        windows: whether to write the windows of the bundle too.

    Returns:
        The exit code, see `app.exit_codes`.

    Raises:
        StartError: `BUNDLE_INVALID`, only with `windows`.
    """
    from app.console import progress

    preprocessing = open_scan_bundle(paths.models, settings).preprocessing if windows else None
    build = partial(build_volume, policy=settings.geometry)
    with (
        Ledger(paths.output, NIFTI) as ledger,
        progress("reading headers") as report,
        open_series(paths.input, settings, ledger.enter_inventory, report) as jobs,
    ):
        for done, job in enumerate(jobs):
            report(done, ledger.series_found, "exporting series")
            ledger.enter(_exported(job.then("volume", build), paths.output, preprocessing).ended("written"))
    return exit_code(ledger.outcomes)


def _exported(job: Job[Volume], output: Path, preprocessing: Preprocessing | None) -> Job[Volume]:
    def export(volume: Volume) -> Volume:
        return write_volume_nifti(volume, output / f"{series_folder(volume.series)}.nii.gz")

    def export_windows(volume: Volume, settings: Preprocessing) -> Volume:
        seen = preprocess(volume, settings)
        write_windows_nifti(seen, settings.window_hu, output, series_folder(volume.series))
        return volume

    written = job.then("export", export)
    if preprocessing is None:
        return written
    return written.then("export_windows", lambda volume: export_windows(volume, preprocessing))
