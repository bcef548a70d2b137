"""The model bundle of a run: found, loaded and checked; an error in it is an error of the call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.process import starting
from app.settings import Settings
from models.bundle.store import find_bundle, load_bundle
from models.spec import Bundle, BundleError
from operators.errors import StartError
from operators.geometry.windows import ARRAYS_ONLY


@contextmanager
def bundle_errors() -> Iterator[None]:
    """Turn a `BundleError` into a `StartError` with its reason code."""
    try:
        yield
    except BundleError as error:
        raise StartError(error.reason, str(error)) from error


def open_bundle(models: Path | None, name: str | None = None, *, reference: bool = True) -> Bundle:
    """Return a bundle, checked against its digests; by default the shipped one.

    Args:
        models: a bundle, or a folder of bundles.
        name: which one of several.
        reference: see `load_bundle`.

    Raises:
        StartError: `BUNDLE_INVALID` or `NOT_ACCESSIBLE`.
    """
    with starting(), bundle_errors():
        return load_bundle(find_bundle(models, name), reference=reference)


def open_scan_bundle(models: Path | None, settings: Settings) -> Bundle:
    """Return the bundle that the settings name, after checking that it defines how a scan becomes windows.

    Raises:
        StartError: `BUNDLE_INVALID`, `NOT_ACCESSIBLE` or `ARRAYS_ONLY`.
    """
    bundle = open_bundle(models, settings.encode.model)
    if bundle.arrays_only:
        raise StartError("ARRAYS_ONLY", ARRAYS_ONLY)
    return bundle
