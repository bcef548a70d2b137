"""What is done to each series that arrives, by which weights under which configuration; and the key of such a job."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from operators import __version__

if TYPE_CHECKING:
    from app.settings import Settings

Kind = Literal["main", "shadow"]


@dataclass(frozen=True, slots=True)
class Work:
    """A bundle, pinned by its digest, under one configuration.

    Attributes:
        weights_sha256: of the bundle; a worker that finds other weights refuses the job.
        config_digest: of all settings that can change what is written, as in `features.json`.
        kind: results of `shadow` stay local.
        models: path of the bundle; None for the one that the settings name.
        version: of ctvae: a later one, with a mended decoder, makes other jobs of the same instances.
    """

    weights_sha256: str
    config_digest: str
    kind: Kind = "main"
    models: str | None = None
    version: str = __version__


@dataclass(frozen=True, slots=True)
class Arrived:
    """What of an instance goes into the key of a job.

    Attributes:
        copy: 0 for what came first under this UID; 1, 2, … for other content under the same UID.
    """

    sop_uid: str
    copy: int
    bytes_digest: str


def work_of(settings: Settings, models: Path | None = None, kind: Kind = "main") -> Work:
    """Open the bundle and say what is done under these settings.

    Raises:
        StartError: `BUNDLE_INVALID`, `NOT_ACCESSIBLE`, `ARRAYS_ONLY` or `UNKNOWN_TAP`.
    """
    from app.open_bundle import open_scan_bundle  # slow to import, and whoever only looks into the queue needs none
    from operators.encode import configured_taps
    from operators.make_record import configuration_digest

    bundle = open_scan_bundle(models, settings)
    taps = configured_taps(bundle, settings.encode.taps)
    digest = configuration_digest(bundle, taps, settings.privacy, settings.geometry)
    return Work(bundle.weights_sha256, digest, kind, None if models is None else str(models.resolve()))


def key_of(series_uid: str, instances: Iterable[Arrived], work: Work) -> str:
    """Return the key under which the queue has one job: same instances, same model, same code.

    The bytes' digest goes in where an instance is not what came first under its UID.
    """
    listed = sorted((one.sop_uid, one.bytes_digest if one.copy else "") for one in instances)
    whole = [series_uid, listed, work.kind, work.weights_sha256, work.config_digest, work.version]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()
