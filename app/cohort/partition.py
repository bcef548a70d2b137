"""The partition of an output folder: all that was encoded by one model in one configuration, and never a mixture."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from app.cohort.encode_unit import Files, Work
from app.cohort.source import Source
from app.process import starting
from app.settings import Settings
from operators import __version__
from operators.encode import configured_taps
from operators.errors import StartError
from operators.make_record import configuration_digest
from operators.pipeline import Pipeline
from operators.results.atomic import write_together
from operators.results.write_json import json_bytes

COHORT_FILE: Final = "cohort.json"
PARTITION_FILE: Final = "partition.json"


@dataclass(frozen=True, slots=True)
class Partition:
    """A folder below the output, by what is in it.

    Attributes:
        folder: of the partition.
        about: everything that can change its tables, and its digest is in the folder's name.
    """

    folder: Path
    about: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    def complete(self) -> str | None:
        """Return what the tables were last made of; None where they were not."""
        try:
            found = json.loads((self.folder / PARTITION_FILE).read_bytes())
            return str(found["complete"]) if found["complete"] else None
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return None

    def write(self, complete: str | None) -> None:
        """Write its file."""
        content = {"software": {"name": "ctvae", "version": __version__}, **self.about, "complete": complete}
        write_together({self.folder / PARTITION_FILE: json_bytes(content)})


def open_partition(output: Path, settings: Settings, pipeline: Pipeline, files: Files) -> Partition:
    """Return the partition for this model and configuration; it is made where it is missing."""
    bundle = pipeline.bundle
    about = {
        "model": {"name": bundle.name, "version": bundle.version, "weights_sha256": bundle.weights_sha256},
        "runtime": pipeline.encoder.runtime,
        "config_digest": config_digest(pipeline),
        "selection": json.loads(json.dumps(asdict(settings.selection), default=str)),
        "sr": settings.sr if files == "json_and_sr" else None,
        "files": files,
        "ctvae_version": __version__,
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    plain = re.sub(r"[^\w.-]+", "_", bundle.name)
    with starting():
        folder = output / f"{plain}-{bundle.weights_sha256[:8]}-{digest[:8]}"
        folder.mkdir(exist_ok=True)
    return Partition(folder, about)


def config_digest(pipeline: Pipeline) -> str:
    """Return the digest of all settings that can change the features."""
    taps = configured_taps(pipeline.bundle, pipeline.taps)
    return configuration_digest(pipeline.bundle, taps, pipeline.disclosure, pipeline.geometry)


def work_of(
    source: Source, settings: Settings, models: Path | None, pipeline: Pipeline, partition: Partition, files: Files
) -> Work:
    """Return what is done to each unit."""
    return Work(
        source.root,
        settings,
        models,
        partition.folder / "results",
        files,
        pipeline.bundle.weights_sha256,
        config_digest(pipeline),
        pipeline.encoder.runtime,
        source.server,
    )


def check_same_data(output: Path, source: Source) -> None:
    """Check that an output folder is of these data, and note it in a new one.

    Raises:
        StartError: `OTHER_COHORT`.
    """
    file = output / COHORT_FILE
    try:
        known = json.loads(file.read_bytes())["data_sha256"]
    except FileNotFoundError:
        write_together({file: json_bytes({"software": {"name": "ctvae"}, "data_sha256": source.digest})})
        return
    except (ValueError, LookupError, TypeError):
        known = None
    if known != source.digest:
        text = (
            f"{output} holds the cohort of another DATA; give another output folder, or the same DATA by the same path"
        )
        raise StartError("OTHER_COHORT", text)
