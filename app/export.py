"""A folder of CT → the volumes that were read, and the windows that the encoder sees, as NIfTI to look at."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from app.encode_folder import Ledger, all_series
from app.exit_codes import exit_code
from app.settings import RunPaths, Settings
from models.bundle.store import find_bundle, load_bundle
from models.spec import BundleError, Preprocessing
from operators.build_volume import build_volume
from operators.geometry.windows import ARRAYS_ONLY
from operators.input.archives import unpacked
from operators.job import Job
from operators.preprocess import preprocess
from operators.read_study import read_studies
from operators.results.write_nifti import write_volume_nifti, write_windows_nifti
from operators.select_series import candidates, take
from operators.types import StartError, Volume
from operators.write_features import series_folder


def export_folder(paths: RunPaths, settings: Settings, *, windows: bool = False) -> int:
    """What `ctvae export` does: every series that passes the gate, with progress; exit code and ledger as of `encode`.

    Args:
        paths: of the run.
        settings: which series are selected, and how they are read.
        windows: write the windows of the bundle too.

    Raises:
        StartError: `BUNDLE_INVALID`, with `windows`.
    """
    from app.console import progress

    preprocessing = _preprocessing(paths.models, settings.encode.model) if windows else None
    with Ledger(paths.output) as ledger, unpacked(paths.input) as archives:
        with progress("reading headers") as on_file:
            reading = read_studies(paths.input, on_file, archives)
        ledger.enter_reading(reading)
        total = len(all_series(reading))
        with progress("exporting series") as on_series:
            build = partial(build_volume, policy=settings.geometry)
            for done, candidate in enumerate(candidates(reading.studies, settings.selection)):
                on_series(done, total)
                volume = candidate.then("select", take).then("volume", build)
                ledger.enter(_exported(volume, paths.output, preprocessing).ended("written"))
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


def _preprocessing(models: Path | None, name: str | None) -> Preprocessing:
    try:
        bundle = load_bundle(find_bundle(models, name))
    except BundleError as error:
        raise StartError("BUNDLE_INVALID", str(error)) from error
    if bundle.arrays_only:
        raise StartError("ARRAYS_ONLY", ARRAYS_ONLY)
    return bundle.preprocessing
