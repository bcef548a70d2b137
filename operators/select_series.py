"""Studies → for each series, what the selection makes of it: itself, or the reason why it goes no further.

A series that is CT in HU (`operators.series.ct_images`) is taken by any rule that it fits; `prefer` then ranks those of
a study, and the first `keep` stay. All is decided on headers, before a pixel is read. What the geometry gate says comes
later and changes no rank: which series of a study is encoded must not depend on a slice that got lost on its way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal

from operators.job import Job
from operators.series.ct_images import select_series
from operators.series.rule import Rule, count_slices, text_of, thickness_mm
from operators.series.sdk_rules import SdkRule
from operators.series.text_pattern import check_pattern, matches
from operators.types import Finding, Series, SeriesSkipped, Study

_NAMED: Final = 3  # of rules, conditions or series in a message; the others are counted
_FORBID_UNKNOWN_KEYS: Final = {"extra": "forbid"}  # pydantic's, where settings are read


@dataclass(frozen=True, slots=True)
class PreferMatch:
    """Series first whose kernel or description matches a pattern."""

    __pydantic_config__: ClassVar = _FORBID_UNKNOWN_KEYS

    kernel: str | None = None
    description: str | None = None

    def __post_init__(self) -> None:
        if (self.kernel is None) == (self.description is None):
            raise ValueError("expected kernel or description, one of them")
        check_pattern(self.kernel or self.description or "")

    def __str__(self) -> str:
        return f"kernel {self.kernel}" if self.kernel else f"description {self.description}"


Preference = Literal["thinnest", "thickest", "most_slices"] | PreferMatch


@dataclass(frozen=True, slots=True)
class Selection:
    """Which CT series of a study are encoded.

    Attributes:
        rules: a series is taken when it fits any of these or of `sdk_rules`; where there are none, every one is.
        sdk_rules: likewise, in the SDK's form.
        prefer: ranks the series of a study that were taken, the first key first; then by UID.
        keep: how many of them stay; 1 where `prefer` is given.
    """

    __pydantic_config__: ClassVar = _FORBID_UNKNOWN_KEYS

    rules: tuple[Rule, ...] = ()
    sdk_rules: tuple[SdkRule, ...] | None = None
    prefer: tuple[Preference, ...] = ()
    keep: int | None = None

    def __post_init__(self) -> None:
        names = [rule.name for rule in self.rules]
        if len(set(names)) < len(names):
            raise ValueError("two rules have the same name; expected a name for each")
        if self.keep is not None and (self.keep < 1 or not self.prefer):
            raise ValueError("keep says how many of those that prefer ranks; expected 1 or more, and prefer beside it")


EVERY_CT: Final = Selection()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A series beside the others of its study.

    Attributes:
        selected: what the selection made of it: the series, or the error that says why it goes no further.
    """

    selected: Series | Exception


def take(candidate: Candidate) -> Series:
    """The series, as it was selected.

    Raises:
        SeriesSkipped: `NO_RULE`, `NOT_PREFERRED`, or a reason of `select_series`.
    """
    if isinstance(candidate.selected, Exception):
        raise candidate.selected
    return candidate.selected


def candidates(studies: Iterable[Study], selection: Selection) -> Iterator[Job[Candidate]]:
    """Each series as a job that begins with what the selection makes of it; one study after the other."""
    for study in studies:
        for series, selected in zip(study.series, apply_rules(study.series, selection), strict=True):
            yield Job(series, Candidate(selected))


def apply_rules(study: Sequence[Series], selection: Selection) -> list[Series | Exception]:
    """What becomes of each series of one study, in their order.

    Returns:
        The series with only its CT images, and a finding `SELECTED_BY_RULE` where a rule took it; or the error that
        ends it, `SeriesSkipped` as a rule.
    """
    judged = [_judge(series, selection) for series in study]
    taken = [series for series in judged if isinstance(series, Series)]
    if not selection.prefer or not taken:
        return judged
    ranked = sorted(taken, key=lambda series: (_rank(series, selection.prefer), _identity(series)))
    keep = selection.keep or 1
    kept, dropped = ranked[:keep], {_identity(series) for series in ranked[keep:]}
    reason = SeriesSkipped("NOT_PREFERRED", _not_preferred(kept, len(ranked), selection.prefer))
    return [reason if isinstance(one, Series) and _identity(one) in dropped else one for one in judged]


def _judge(series: Series, selection: Selection) -> Series | Exception:
    try:
        return _taken(select_series(series), selection)
    except Exception as error:  # noqa: BLE001  it ends its series in the stage `select`, and no other of the study
        return error


def _taken(series: Series, selection: Selection) -> Series:
    """The series with the names of the rules that take it, where there are rules."""
    if selection.sdk_rules is None and not selection.rules:
        return series
    rules: tuple[Rule | SdkRule, ...] = (*selection.rules, *(selection.sdk_rules or ()))
    unmet = [(rule, rule.unmet(series)) for rule in rules]
    names = [rule.name for rule, failed in unmet if not failed]
    if not names:
        raise SeriesSkipped("NO_RULE", _no_rule(unmet))
    finding = Finding("SELECTED_BY_RULE", _listed(names))
    return replace(series, findings=(*series.findings, finding))


def _no_rule(unmet: Sequence[tuple[Rule | SdkRule, tuple[str, ...]]]) -> str:
    """Which rule came nearest: the first of those with the fewest conditions that do not hold."""
    if not unmet:
        return "no selection rule has conditions, so none takes a series; give one that has"
    rule, failed = min(unmet, key=lambda one: len(one[1]))
    return f"no selection rule takes it; nearest is {rule.name}: {_listed(failed, '; ')}; change the rule to take it"


def _not_preferred(kept: Sequence[Series], of: int, prefer: Sequence[Preference]) -> str:
    parts = [series.series_instance_uid + (f" part {series.part}" if series.part else "") for series in kept]
    keys = ", then ".join(map(str, prefer))
    return f"{of} series of the study fit; preferred by {keys}: {_listed(parts)}; raise keep to have more"


def _rank(series: Series, prefer: Sequence[Preference]) -> tuple[float, ...]:
    """The smaller, the better; what is not known comes last."""
    return tuple(_PLACES[key](series) if isinstance(key, str) else _place_by_match(series, key) for key in prefer)


def _place_by_match(series: Series, key: PreferMatch) -> float:
    keyword = "ConvolutionKernel" if key.kernel else "SeriesDescription"
    found = text_of(series, keyword)
    return 0.0 if found and matches(key.kernel or key.description or "", found) else 1.0


def _thinnest(series: Series) -> float:
    found = thickness_mm(series)
    return found[1] if found else math.inf


def _thickest(series: Series) -> float:
    found = thickness_mm(series)
    return -found[0] if found else math.inf


_PLACES: Final[dict[str, Callable[[Series], float]]] = {
    "thinnest": _thinnest,
    "thickest": _thickest,
    "most_slices": lambda series: -float(count_slices(series)),
}


def _identity(series: Series) -> tuple[str, int]:
    return series.series_instance_uid, series.part or 0


def _listed(texts: Sequence[str], between: str = ", ") -> str:
    more = len(texts) - _NAMED
    return between.join(texts[:_NAMED]) + (f" and {more} more" if more > 0 else "")
