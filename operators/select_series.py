"""Study → one job per series: the series to encode, or the outcome that says why it is not encoded.

A series that is CT in HU (`operators.series.ct_images`) is accepted by any rule that it fits; `prefer` then ranks the
accepted series of a study, and the first `keep` remain. Selection looks at headers only, before any pixel is read. The
geometry gate comes later and does not change the ranking: a lost slice must not change which series is encoded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Final, Literal

from operators.errors import SeriesSkipped
from operators.job import Job, failure
from operators.series.ct_images import keep_ct_images
from operators.series.rule import Rule, count_slices, text_of, thickness_mm
from operators.series.sdk_rules import SdkRule
from operators.series.text_pattern import check_pattern, matches
from operators.types import Finding, Series, Study

_NAMED: Final = 3  # rules, conditions or series named in a message; the others are counted
_FORBID_UNKNOWN_KEYS: Final = {"extra": "forbid"}  # pydantic's, where settings are read


@dataclass(frozen=True, slots=True)
class PreferMatch:
    """Rank series whose kernel or description matches a pattern first."""

    __pydantic_config__: ClassVar = _FORBID_UNKNOWN_KEYS

    kernel: str | None = None
    description: str | None = None

    def __post_init__(self) -> None:
        if (self.kernel is None) == (self.description is None):
            raise ValueError("expected either kernel or description")
        check_pattern(self.kernel or self.description or "")

    def __str__(self) -> str:
        return f"kernel {self.kernel}" if self.kernel else f"description {self.description}"


Preference = Literal["thinnest", "thickest", "most_slices"] | PreferMatch


@dataclass(frozen=True, slots=True)
class Selection:
    """Which CT series of a study are encoded.

    Attributes:
        rules: a series is accepted if it fits any of these or of `sdk_rules`; without rules, every series is.
        sdk_rules: likewise, in the SDK's form.
        prefer: ranks the accepted series of a study by the first key, then the next; finally by UID.
        keep: how many of them remain; 1 where `prefer` is given.
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
            raise ValueError("keep counts the series that prefer ranks; expected 1 or more, together with prefer")


EVERY_CT: Final = Selection()


def select(study: Study, selection: Selection = EVERY_CT) -> list[Job[Series]]:
    """Decide which series of a study are encoded.

    Returns:
        One job per series, in order, with its share of the time as `seconds["select"]`. Its state is the series with
        only its CT images, and a finding `SELECTED_BY_RULE` where rules accepted it; or the outcome that ends it, with
        `NO_RULE`, `NOT_PREFERRED` or a reason of `keep_ct_images`.
    """
    jobs = [Job(series, series).then("select", partial(_selected, selection=selection)) for series in study.series]
    fitting = [job.state for job in jobs if isinstance(job.state, Series)]
    if not selection.prefer or not fitting:
        return jobs
    started = time.perf_counter()
    ranked = sorted(fitting, key=lambda series: (_rank(series, selection.prefer), _identity(series)))
    keep = selection.keep or 1
    dropped = {_identity(series) for series in ranked[keep:]}
    reason = SeriesSkipped("NOT_PREFERRED", _not_preferred(ranked[:keep], len(ranked), selection.prefer))
    share_s = (time.perf_counter() - started) / len(jobs)
    return [_after_ranking(job, dropped, reason, share_s) for job in jobs]


def _after_ranking(
    job: Job[Series], dropped: Set[tuple[str, int]], reason: SeriesSkipped, share_s: float
) -> Job[Series]:
    is_dropped = isinstance(job.state, Series) and _identity(job.state) in dropped
    state = failure(job, reason) if is_dropped else job.state
    return Job(job.series, state, {"select": job.seconds["select"] + share_s})


def _selected(series: Series, selection: Selection) -> Series:
    """Return the CT images of a series; where there are rules, with the names of those that accept it."""
    series = keep_ct_images(series)
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
    """Return a message that names the nearest rule: the first of those with the fewest unmet conditions."""
    if not unmet:
        return "no selection rule has conditions, so none accepts a series; add a condition to one"
    rule, failed = min(unmet, key=lambda entry: len(entry[1]))
    return (
        f"no selection rule accepts it; nearest is {rule.name}: {_listed(failed, '; ')}; change the rule to accept it"
    )


def _not_preferred(kept: Sequence[Series], fitting: int, prefer: Sequence[Preference]) -> str:
    parts = [series.series_instance_uid + (f" part {series.part}" if series.part else "") for series in kept]
    keys = ", then ".join(map(str, prefer))
    return f"{fitting} series of the study fit; preferred by {keys}: {_listed(parts)}; raise keep to encode more"


def _rank(series: Series, prefer: Sequence[Preference]) -> tuple[float, ...]:
    """Return the rank of a series; smaller is better, and unknown values come last."""
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
