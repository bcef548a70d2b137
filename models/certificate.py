"""The content of a bundle's certificate: frozen values that check themselves; JSON only in `docs/certificate.json`.

`docs/certificate.md` explains each figure. A figure is None where it could not be measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from models.certified_figures import (
    DrawFigures,
    Estimate,
    GroupFigures,
    Number,
    PriorFigures,
    Redundancy,
    RepeatFigures,
    RivalFigures,
)
from models.from_json import from_json

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class MeanError(Estimate):
    """A mean over windows, and their number."""

    windows: int


@dataclass(frozen=True, slots=True)
class ProbeScore(Estimate):
    """R² of a probe, the same on shuffled values, and the windows and patients it was scored on."""

    shuffled: Number
    windows: int
    patients: int


@dataclass(frozen=True, slots=True)
class LabelScore:
    """The score of a label's probe, ordered as in the file: `auc` for classes, `r2` for numbers."""

    measure: Literal["auc", "r2"]
    value: Number
    low: Number
    high: Number
    shuffled: Number
    windows: int
    patients: int

    @property
    def probe(self) -> ProbeScore:
        """The score without its measure."""
        return ProbeScore(self.value, self.low, self.high, self.shuffled, self.windows, self.patients)


@dataclass(frozen=True, slots=True)
class CertifiedBundle:
    """The bundle that was measured."""

    name: str
    version: str
    weights_sha256: str
    preprocessing_sha256: str


@dataclass(frozen=True, slots=True)
class CertifiedData:
    """How much data was measured, and how much only helped; no patient is named."""

    patients: int
    scans: int
    windows: int
    unreadable_scans: int
    left_out_patients: int
    helping_patients: int
    helping_windows: int
    trained_on_included: bool
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CertifySettings:
    """The seeds, folds and bootstrap samples that were used."""

    seed: int
    resamples: int
    folds: int
    inner_folds: int
    shuffles: int


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the scan, and how far it moved its windows along (z, y, x), mean over scans."""

    what: str
    moved_mm: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class DimensionRepeatability:
    """Repeatability of each dimension; `icc` by change."""

    icc: Mapping[str, tuple[Number, ...]]
    within_sd: tuple[float, ...]
    between_sd: tuple[float, ...]
    minimal_detectable_change: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RepeatabilityFigures:
    """Whether a tap stays the same when it should; by dimension for mu only."""

    mean_icc: Estimate
    median_icc: Number
    dead_dimensions: int
    by_change: Mapping[str, Estimate]
    by_dimension: DimensionRepeatability | None = None


@dataclass(frozen=True, slots=True)
class InformationFigures:
    """What probes find in a tap; `mean_r2` is None where no quantity could be probed."""

    mean_r2: Estimate | None
    quantities: Mapping[str, ProbeScore]
    labels: Mapping[str, LabelScore]


@dataclass(frozen=True, slots=True)
class FoundAgain:
    """The fraction of windows found again with one distance: mean and lowest over changes, and under each change."""

    mean: float
    lowest: float
    by_change: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class IdentityFigures:
    """Whether a changed window is found again among the gallery's windows, by distance."""

    looked_for: int
    gallery: int
    chance: float
    metrics: Mapping[str, FoundAgain]

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError("identity was measured by no distance; expected at least one")

    @property
    def best(self) -> str:
        """The distance that finds most windows."""
        return max(self.metrics, key=lambda name: self.metrics[name].mean)


@dataclass(frozen=True, slots=True)
class TapFigures:
    """Everything measured on one tap."""

    layer: str
    pooling: str
    length: int
    receptive_field_mm: tuple[float, ...] | None
    repeatability: RepeatabilityFigures
    information: InformationFigures
    identity: IdentityFigures


@dataclass(frozen=True, slots=True)
class ReconstructionFigures:
    """Errors of the reconstruction from mu; None for a tissue that no window contains."""

    mae_hu: MeanError | None
    mae_by_tissue_hu: Mapping[str, MeanError | None]
    psnr_db: MeanError | None
    ssim: MeanError | None


@dataclass(frozen=True, slots=True)
class FactorFigures:
    """Disentanglement of one factor of the phantoms, drawn from `range`."""

    range: tuple[float, float]
    mig: Number
    dci_completeness: Number
    dci_informativeness: Number
    sap: Number
    factor_r2: Number


@dataclass(frozen=True, slots=True)
class PhantomFigures:
    """Disentanglement on phantoms: means over factors, and each factor."""

    phantoms: int
    mig: Number
    dci_disentanglement: Number
    dci_completeness: Number
    dci_informativeness: Number
    sap: Number
    factor_r2: Number
    factors: Mapping[str, FactorFigures]


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a bundle's features are worth, measured on patients it was not trained on.

    Attributes:
        changes: what was done to the scans, by name.
        active_units: number of dimensions of mu in use, as `models.statistics.units` defines it.
        taps: figures by tap; always including mu.
        reconstruction: None for an encoder without a decoder.
        phantom: None where no phantoms were drawn.
        redundancy, prior, draws: of mu and sigma; None in a certificate of an earlier ctvae.
        groups: figures within each kind of crop and each source with at least two patients.
        repeats: None where no patient has two scans.
        rivals: None where there were no windows of other patients to learn components from.
        summary: the certificate in one line.
    """

    schema_version: int
    bundle: CertifiedBundle
    data: CertifiedData
    settings: CertifySettings
    versions: Mapping[str, str]
    changes: Mapping[str, Change]
    active_units: int
    kl_by_dimension: tuple[float, ...]
    variance_of_mu: tuple[float, ...]
    correlation_of_mu: tuple[tuple[float, ...], ...]
    taps: Mapping[str, TapFigures]
    reconstruction: ReconstructionFigures | None
    phantom: PhantomFigures | None
    redundancy: Redundancy | None = None
    prior: PriorFigures | None = None
    draws: DrawFigures | None = None
    groups: Mapping[str, GroupFigures] = field(default_factory=dict)
    rivals: RivalFigures | None = None
    repeats: RepeatFigures | None = None
    summary: str = ""

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {self.schema_version}; expected {SCHEMA_VERSION}")
        units = len(self.kl_by_dimension)
        if not 0 <= self.active_units <= units:
            raise ValueError(f"{self.active_units} of {units} units are active; expected at most all of them")
        counts = [len(self.variance_of_mu), len(self.correlation_of_mu), *map(len, self.correlation_of_mu)]
        if set(counts) - {units}:
            raise ValueError(f"variance and correlation of mu are of {sorted(set(counts))} units; expected {units}")
        for name, tap in self.taps.items():
            parts = [tap.repeatability.by_change, *(found.by_change for found in tap.identity.metrics.values())]
            if any(part.keys() != self.changes.keys() for part in parts):
                raise ValueError(f"tap {name} was not measured under exactly the changes that are named")
        if "mu" not in self.taps or self.taps["mu"].repeatability.by_dimension is None:
            raise ValueError("mu is not measured by dimension; expected mu among the taps")
        dimensions = self.taps["mu"].repeatability.by_dimension
        rows = [dimensions.within_sd, dimensions.between_sd, dimensions.minimal_detectable_change]
        if dimensions.icc.keys() != self.changes.keys() or any(
            len(row) != units for row in (*rows, *dimensions.icc.values())
        ):
            raise ValueError(f"repeatability of mu is not of {units} dimensions under each change")

    @property
    def mu(self) -> TapFigures:
        """Figures of the posterior mean."""
        return self.taps["mu"]

    def as_json(self) -> dict[str, Any]:
        """Return the document of `docs/certificate.json` as plain JSON values (with tuples for lists)."""
        document = asdict(self)
        for name in ("redundancy", "prior", "draws", "groups", "rivals", "repeats"):
            if not document[name]:
                del document[name]
        for tap in document["taps"].values():
            if tap["repeatability"]["by_dimension"] is None:
                del tap["repeatability"]["by_dimension"]
        return document


def certificate_from_json(document: Mapping[str, object]) -> Certificate:
    """Return a certificate from its JSON document.

    Raises:
        ValueError: it is not in the form that this ctvae writes; one line that names the error.
    """
    certificate: Certificate = from_json(Certificate, document)
    return certificate
