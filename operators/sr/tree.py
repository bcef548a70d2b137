"""The content tree of the SR: TID 1500 (Measurement Report, PS3.16); `docs/structured-report.md` shows it."""

from __future__ import annotations

from collections.abc import Iterator

from operators import __version__
from operators.record import FeatureRecord
from operators.sr import codes as sr_codes
from operators.sr.content import (
    CONTAINS,
    HAS_CONCEPT_MOD,
    HAS_OBS_CONTEXT,
    Concept,
    Container,
    Item,
    Text,
    UidRef,
    Value,
    text_value,
)
from operators.sr.groups import FINDING, measurement_groups
from operators.sr.typicality import COMMENT
from operators.types import Finding


def measurement_report(record: FeatureRecord) -> Item:
    """Return TID 1500, with the notice before the numbers and the findings after them.

    Raises:
        SeriesFailed: `NON_FINITE_NUMBER`, `BAD_VECTOR` or `BAD_NAME`.
    """
    language = Concept("RFC5646", "en-US", "English (United States)")
    procedure = Concept("LN", "25045-6", "CT unspecified body region")
    children = [
        Item(HAS_CONCEPT_MOD, Concept("DCM", "121049", "Language of Content Item and Descendants"), language),
        *_observer(record),
        Item(HAS_CONCEPT_MOD, Concept("DCM", "121058", "Procedure reported"), procedure),
        Item(CONTAINS, COMMENT, Text(sr_codes.NOT_FOR_DIAGNOSIS)),
        Item(
            CONTAINS,
            Concept(*sr_codes.IMAGING_MEASUREMENTS, "Imaging Measurements"),
            Container(),
            measurement_groups(record),
        ),
    ]
    if record.findings:
        children.append(_findings(record.findings))
    return Item("", Concept("DCM", "126000", "Imaging Measurement Report"), Container("1500"), tuple(children))


def algorithms(root: Item) -> Iterator[tuple[str, str]]:
    """Yield name and version of each algorithm named in a report's groups."""
    for measurements in root.children:
        for group in measurements.children:
            values = {item.name[:2]: item.value for item in group.children if item.name is not None}
            name, version = values.get(sr_codes.ALGORITHM_NAME), values.get(sr_codes.ALGORITHM_VERSION)
            if isinstance(name, Text) and isinstance(version, Text):
                yield name.text, version.text


def _observer(record: FeatureRecord) -> Iterator[Item]:
    """Yield TID 1004: the observer is this software with these weights, on any computer: there is no host name."""
    uid = sr_codes.derived_uid("device", __version__, record.model.weights_sha256)
    values: dict[tuple[str, str], Value] = {
        ("121005", "Observer Type"): Concept("DCM", "121007", "Device"),
        ("121012", "Device Observer UID"): UidRef(uid),
        ("121013", "Device Observer Name"): Text(sr_codes.MANUFACTURER),
        ("121014", "Device Observer Manufacturer"): Text(sr_codes.MANUFACTURER),
        ("121015", "Device Observer Model Name"): text_value(f"{record.model.name} {record.model.version}"),
    }
    for (code, meaning), value in values.items():
        yield Item(HAS_OBS_CONTEXT, Concept("DCM", code, meaning), value)


def _findings(findings: tuple[Finding, ...]) -> Item:
    """Return the findings of the geometry gate and the decoder, as text under Qualitative Evaluations (TID 1500)."""
    lines = tuple(Item(CONTAINS, FINDING, text_value(f"{finding.code}: {finding.detail}")) for finding in findings)
    return Item(CONTAINS, Concept(*sr_codes.QUALITATIVE_EVALUATIONS, "Qualitative Evaluations"), Container(), lines)
