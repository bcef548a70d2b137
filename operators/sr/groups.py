"""The measurement groups of the SR, TID 1501 (PS3.16): one for each kind of number, each about the whole series.

They share a tracking UID, and each refers to the series and to one image of it. Viewers show them as one measurement.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np

from operators import __version__
from operators.errors import SeriesFailed
from operators.record import FeatureRecord, Reliability, TapValues
from operators.sr import codes as sr_codes
from operators.sr.content import (
    CONTAINS,
    HAS_CONCEPT_MOD,
    HAS_OBS_CONTEXT,
    Concept,
    Container,
    Item,
    Number,
    Text,
    UidRef,
    text_value,
)
from operators.sr.numbers import (
    PERCENT,
    derivation,
    digests,
    measured_by,
    number,
    unit_of,
    vector,
    with_graphic,
)
from operators.sr.place import Place, place_of
from operators.sr.typicality import COMMENT, typicality_content

SHOWN_QUANTITIES = {"mean_hu": "Mean of the body", "lung_fraction": "Lung in the body"}
"""Quantities that viewers draw beside the image, and their displayed names."""

FINDING = Concept(*sr_codes.FINDING, "Finding")
SOURCE = Concept("SCT", "260753009", "Source")
SOURCE_OF_MEASUREMENT = Concept("DCM", "121112", "Source of Measurement")
TEXT_ANCHOR = Concept(sr_codes.SCHEME, "TEXT-ANCHOR", "Anchor of the text, no region")
ARTIFICIAL_INTELLIGENCE = Concept("DCM", "123110", "Artificial Intelligence")
HISTOGRAM_ANALYSIS = Concept("DCM", "123105", "Histogram Analysis")
MEAN = Concept(*sr_codes.MEAN, "Mean")
STANDARD_DEVIATION = Concept(*sr_codes.STANDARD_DEVIATION, "Standard Deviation")

NOT_ASSESSED = "Not for diagnosis. Reliability not assessed"
Parameters = dict[str, str | int]


def measurement_groups(record: FeatureRecord) -> tuple[Item, ...]:
    """Return the groups in the order in which viewers draw their numbers.

    Raises:
        SeriesFailed: `NON_FINITE_NUMBER`, `BAD_VECTOR` or `BAD_NAME`.
    """
    place = place_of(record.encoding.windows)
    groups = [] if record.reliability is None else [_typicality_group(record, record.reliability, place)]
    groups += [_quantities_group(record, place), _posterior_group(record, place)]
    others = sorted(set(record.taps) - set(sr_codes.POSTERIOR_TAPS))
    return (*groups, *(_tap_group(record, record.taps[name], place) for name in others))


def _typicality_group(record: FeatureRecord, found: Reliability, place: Place | None) -> Item:
    """Return the group on how typical the scan is of the reference patients."""
    content = typicality_content(found)
    about: Parameters = {
        "weights_sha256": record.model.weights_sha256,
        "reference_sha256": found.reference_sha256,
        "n_reference": found.n_reference,
    }
    length: Parameters = {"length": sum(isinstance(item.value, Number) for item in content)}
    algorithm = _algorithm("ctvae reliability", __version__, about | _input(record) | length, ARTIFICIAL_INTELLIGENCE)
    return _group(record, place, Concept(*sr_codes.TYPICALITY_GROUP, "Typicality of the scan"), algorithm, content)


def _quantities_group(record: FeatureRecord, place: Place | None) -> Item:
    """Return the group of the quantities; the code of each is its name in `features.json`.

    The share of real voxels is always included, so that there are coordinates even if nothing could be measured.
    """
    measured = {name: value for name, value in sorted(record.quantities.items()) if value is not None}
    shown = [_quantity(name, measured[name]) for name in SHOWN_QUANTITIES if name in measured]
    real = np.float32(np.mean(record.encoding.windows.real_fraction, dtype=np.float64))
    shown.append(number(Concept(*sr_codes.REAL_VOXELS, "Real voxels in the windows"), real, PERCENT))
    method = measured_by("VOXEL-STATISTICS", "Statistics of the voxels")
    hidden = [_quantity(name, value, method) for name, value in measured.items() if name not in SHOWN_QUANTITIES]
    if place is not None:
        shown[-1] = with_graphic(shown[-1], SOURCE, place.outline, place.image)
        shown[0] = with_graphic(shown[0], TEXT_ANCHOR, place.anchor, place.image)
    about = _input(record) | {"length": len(measured)}
    algorithm = _algorithm("ctvae quantities of the voxels", __version__, about, HISTOGRAM_ANALYSIS)
    finding = Concept(*sr_codes.QUANTITIES_GROUP, "Quantities of the voxels themselves")
    unknown = [] if record.reliability else [Item(CONTAINS, COMMENT, Text(NOT_ASSESSED))]
    return _group(record, place, finding, algorithm, [*unknown, *shown, *hidden])


def _quantity(name: str, value: float, method: Item | None = None) -> Item:
    _check_name("quantity", name)
    meaning = SHOWN_QUANTITIES.get(name) or name.replace("_", " ")
    return number(Concept(sr_codes.SCHEME, name, meaning), np.float32(value), unit_of(name), method, f"quantity {name}")


def _posterior_group(record: FeatureRecord, place: Place | None) -> Item:
    """Return the group of the series' vectors mu and sigma, which are side by side for each dimension."""
    mu, sigma = (record.taps[name] for name in sr_codes.POSTERIOR_TAPS)
    if mu.length != sigma.length:
        found = f"mu and sigma have {mu.length} and {sigma.length} dimensions"
        raise SeriesFailed("BAD_VECTOR", f"{found}; expected the same number; check the bundle")
    if mu.length <= sr_codes.LISTED_DIMENSIONS:
        derived = [derivation(MEAN), derivation(STANDARD_DEVIATION)]
        vectors = [
            vector(tap, sr_codes.POSTERIOR_CODES[tap.name], f"VAE latent {{:02d}} {short}", child)
            for tap, short, child in zip((mu, sigma), ("mean", "SD"), derived, strict=True)
        ]
        numbers = [number for pair in zip(*vectors, strict=True) for number in pair]
    else:
        numbers = digests(mu, sigma)
    algorithm = _network(record, {"length": mu.length})
    content = [_sigma_parts(record), *numbers]
    return _group(record, place, Concept(*sr_codes.POSTERIOR_GROUP, "VAE posterior"), algorithm, content)


def _sigma_parts(record: FeatureRecord) -> Item:
    """Describe in words what the SD of the series is made of; `features.json` has both parts for each dimension."""
    count = len(record.encoding.windows.voxels)
    within, between = (
        float(np.sqrt(np.mean(np.square(part, dtype=np.float64)))) for part in record.encoding.sigma_parts
    )
    text = (
        f"Root mean square over the dimensions: {within:.4g} within windows (the encoder's own uncertainty), "
        f"{between:.4g} between the {count} windows"
    )
    return Item(CONTAINS, Concept(sr_codes.SCHEME, "SIGMA-PARTS", "What the SD is made of"), Text(text))


def _tap_group(record: FeatureRecord, tap: TapValues, place: Place | None) -> Item:
    """Return the group of any other tap."""
    _check_name("tap", tap.name)
    code = sr_codes.tap_group(tap.name)
    method = measured_by("VAE-LAYER", "Activation of a VAE layer")
    listed = tap.length <= sr_codes.LISTED_DIMENSIONS
    numbers = vector(tap, code, f"VAE layer {tap.name}, dimension {{}}", method) if listed else digests(tap)
    about: dict[str, str | int] = {"tap": tap.name, "pooling": tap.pooling, "length": tap.length}
    if tap.seed is not None:
        about["seed"] = tap.seed
    algorithm = _network(record, about)
    return _group(record, place, Concept(*code, f"VAE layer {tap.name}"), algorithm, numbers)


def _group(
    record: FeatureRecord, place: Place | None, finding: Concept, algorithm: Sequence[Item], content: Iterable[Item]
) -> Item:
    """Return a TID 1501 group on the whole series: tracking, finding, algorithm, the series and an image of it.

    OHIF takes the first UIDREF as the tracking UID, so it comes before that of the series.
    """
    tracked, series = Concept(*sr_codes.TRACKING_IDENTIFIER, "Tracking Identifier"), record.series
    part = "" if series.part is None else f", part {series.part}"
    context = [
        Item(HAS_OBS_CONTEXT, tracked, Text(f"Windows of the CT series{part}")),
        Item(
            HAS_OBS_CONTEXT, Concept(*sr_codes.TRACKING_UID, "Tracking Unique Identifier"), UidRef(tracking_uid(record))
        ),
        Item(CONTAINS, FINDING, finding),
        *algorithm,
        Item(
            CONTAINS,
            Concept(*sr_codes.SERIES_INSTANCE_UID, "Series Instance UID"),
            UidRef(series.series_instance_uid),
        ),
    ]
    if place is not None:
        context.append(Item(CONTAINS, SOURCE_OF_MEASUREMENT, place.image))
    group = Concept(*sr_codes.MEASUREMENT_GROUP, "Measurement Group")
    return Item(CONTAINS, group, Container("1501"), (*context, *content))


def tracking_uid(record: FeatureRecord) -> str:
    """Return the tracking UID: this part of this series at this place, under any model and in any revision.

    The place is the extent of the scan in the patient in whole mm, which does not depend on the model.
    """
    volume = record.encoding.windows.volume
    ends = np.array([[-0.5, n - 0.5] for n in volume.shape])
    corners = np.stack([*(grid.ravel() for grid in np.meshgrid(*ends)), np.ones(8)])
    places = (volume.affine_lps_mm @ corners)[:3]
    extent = [int(mm) for mm in np.rint([*places.min(axis=1), *places.max(axis=1)])]
    return sr_codes.derived_uid("tracking", record.series_instance_uid, record.series.part, *extent)


def _algorithm(name: str, version: str, parameters: Parameters, family: Concept) -> list[Item]:
    """Return the algorithm identification (TID 4019)."""
    texts = [
        (sr_codes.ALGORITHM_NAME, "Algorithm Name", name),
        (sr_codes.ALGORITHM_VERSION, "Algorithm Version", version),
        *((sr_codes.ALGORITHM_PARAMETERS, "Algorithm Parameters", f"{n}={v}") for n, v in parameters.items()),
    ]
    items = [Item(HAS_CONCEPT_MOD, Concept(*code, meaning), text_value(text)) for code, meaning, text in texts]
    return [*items, Item(HAS_CONCEPT_MOD, Concept(*sr_codes.ALGORITHM_FAMILY, "Algorithm Family"), family)]


def _network(record: FeatureRecord, about_the_tap: Parameters) -> list[Item]:
    """Return the encoder's algorithm identification (TID 4019)."""
    model = record.model
    weights: Parameters = {
        "weights_sha256": model.weights_sha256,
        "architecture": model.architecture,
        "runtime": model.runtime,
    }
    return _algorithm(model.name, model.version, weights | _input(record) | about_the_tap, ARTIFICIAL_INTELLIGENCE)


def _input(record: FeatureRecord) -> Parameters:
    """Return the parameters of input and preprocessing; with the series UID, they suffice to reproduce the numbers."""
    return {
        "preprocessing": json.dumps(dict(record.preprocessing), sort_keys=True, separators=(",", ":")),
        "preprocessing_sha256": record.preprocessing_digest,
        "config_sha256": record.config_digest,
        "instances": record.identity.instances,
        "instances_sha256": record.identity.instances_digest,
        "part": "whole" if record.series.part is None else record.series.part,
        "job_key": record.job_key,
    }


def _check_name(kind: str, name: str) -> None:
    if not sr_codes.NAME.fullmatch(name):
        raise SeriesFailed("BAD_NAME", f"{kind} {name!r}: expected 1 to 32 of A-Z a-z 0-9 _ . -; rename it")
