"""The stages of a run, fixed before the first series is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from models.bundle.reference import Reference
from models.runtime import Encoder
from models.spec import Bundle
from operators.build_volume import build_volume
from operators.encode import encode
from operators.geometry.policy import NO_REPAIR, GeometryPolicy
from operators.job import Job
from operators.make_record import Disclosure, make_record
from operators.measure.reliability import measure_reliability
from operators.preprocess import preprocess
from operators.record import Encoding, FeatureRecord
from operators.results.card_kinds import CardFormat, Reconstruct
from operators.sr.codes import SrClass
from operators.types import Outcome, Series, Volume, Windows
from operators.write_features import PredecessorOf, ResultFiles, no_predecessor, write_features


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The stages from a selected series to its files, each a function of the noun before it.

    The graph and the plain loop both run these.

    Attributes:
        bundle: the model.
        encoder: the open encoder of the bundle.
        taps: layers to write beside `mu` and `sigma`.
        disclosure: what may be written about the patient.
        output: folder for the results; None writes nothing.
        geometry: what to repair instead of rejecting.
        sr: the SOP class of the SR.
        sr_beside: further SOP classes in which the SR is written too, for receivers that refuse the first.
        predecessor_of: the earlier SR, if any, whose place the new one takes.
        cards: formats in which the card, a page for a person, is written.
        fhir: write the SR's content as FHIR R5 too.
        maps: write layers that are kept as grids as Parametric Maps too.
        reference: the bundle's reference population, open; None for a bundle without reference patients.
        reconstruct: the bundle's decoder, for the card; None where it has none.
    """

    bundle: Bundle
    encoder: Encoder
    taps: tuple[str, ...]
    disclosure: Disclosure
    output: Path | None
    geometry: GeometryPolicy = NO_REPAIR
    sr: SrClass = "comprehensive_3d"
    sr_beside: tuple[SrClass, ...] = ()
    predecessor_of: PredecessorOf = no_predecessor
    cards: tuple[CardFormat, ...] = ()
    fhir: bool = False
    maps: bool = False
    reference: Reference | None = None
    reconstruct: Reconstruct | None = None

    def build(self, job: Job[Series]) -> Job[Volume]:
        """Turn a Series into a Volume; the geometry gate may reject it."""
        return job.then("volume", lambda series: build_volume(series, self.geometry))

    def preprocess(self, job: Job[Volume]) -> Job[Windows]:
        """Turn a Volume into Windows; this decodes the slices."""
        return job.then("decode_preprocess", lambda volume: preprocess(volume, self.bundle.preprocessing))

    def encode(self, job: Job[Windows]) -> Job[Encoding]:
        """Turn Windows into an Encoding."""
        return job.then("encode", lambda windows: encode(windows, self.encoder, self.bundle, self.taps))

    def write(self, job: Job[Encoding]) -> Job[FeatureRecord]:
        """Turn an Encoding into a FeatureRecord, and write its files where there is an output folder."""
        record = job.then("record", lambda encoding: make_record(encoding, self.bundle, self.disclosure, self.geometry))
        if self.reference is not None:
            record = record.then("reliability", partial(self._with_reliability, self.reference))
        output, classes = self.output, (self.sr, *self.sr_beside)
        files = ResultFiles(classes, self.predecessor_of, self.cards, self.reconstruct, self.fhir, self.maps)
        return record if output is None else record.then("write", lambda made: write_features(made, output, files))

    def _with_reliability(self, reference: Reference, record: FeatureRecord) -> FeatureRecord:
        return replace(record, reliability=measure_reliability(record.encoding, reference, self.bundle.preprocessing))

    def run(self, job: Job[Series]) -> Job[FeatureRecord]:
        """Run all stages on one series, one after the other."""
        return self.write(self.encode(self.preprocess(self.build(job))))


OnOutcome = Callable[[Outcome], None]
