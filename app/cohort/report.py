"""What became of a cohort: one screen of text, and the same with more as one HTML page that needs nothing else.

Both hold no path, no name, no clock: the same cohort gives the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from string import Template
from typing import Final, TypeVar

from app.cohort.ended import Ended
from operators import __version__
from operators.codes import Code
from operators.printable import printable
from operators.results.write_json import NOTICE

STATUSES: Final = ("written", "rejected", "skipped", "failed")
_SHOWN: Final = 5
_SHOWN_ON_PAGE: Final = 30
_REJECTED_SHARE: Final = 0.05
_OUT_SHARE: Final = 0.2
_OUT: Final = "out_of_distribution"
K = TypeVar("K")


@dataclass(slots=True)
class Tally:
    """What is counted of a cohort, series by series; it grows with what differs, not with the series.

    Attributes:
        statuses: status → series.
        reasons: (status, reason) → series.
        examples: (status, reason) → UID of the first of them.
        scanners: (manufacturer, model) → series written.
        kernels: kernel → series written.
        findings: code → series written.
        verdicts: verdict → series written; `None` where it was not assessed.
        out_by_scanner: (manufacturer, model) → series out of distribution.
        doubles: series that lie in more than one place.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    scanners: Counter[str] = field(default_factory=Counter)
    kernels: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str | None] = field(default_factory=Counter)
    out_by_scanner: Counter[str] = field(default_factory=Counter)
    doubles: int = 0

    def count(self, one: Ended) -> None:
        """Count one more."""
        outcome = one.outcome
        self.statuses[outcome.status] += 1
        self.doubles += len(one.places) > 1
        if one.row is None:
            key = outcome.status, str(outcome.reason)
            self.reasons[key] += 1
            self.examples.setdefault(key, outcome.series_instance_uid)
        else:
            self._count_written(one.row)

    def _count_written(self, row: Mapping[str, object]) -> None:
        stated = [printable(str(row[name])) for name in ("manufacturer", "manufacturer_model") if row.get(name)]
        scanner = " ".join(stated) or "not stated"
        self.scanners[scanner] += 1
        self.kernels[printable(str(row.get("kernel") or "not stated"))] += 1
        self.findings.update(set(str(row.get("findings") or "").split()))
        verdict = row.get("verdict")
        self.verdicts[None if verdict is None else str(verdict)] += 1
        self.out_by_scanner[scanner] += verdict == _OUT


@dataclass(frozen=True, slots=True)
class Facts:
    """What the report says beside the tally.

    Attributes:
        model: name, version and weights.
        partition: name of the folder.
        files: kind → number of files, see `Index.counts`.
        units: studies, or what stands for one.
    """

    model: str
    partition: str
    files: Mapping[str, int]
    units: int


def text_report(tally: Tally, facts: Facts) -> str:
    """Return one screen of text."""
    lines = [
        *(f"{name:<14} {value}" for name, value in _facts(tally, facts)),
        *_text_block("rejected", tally),
        *_text_block("failed", tally),
        *_text_block("skipped", tally),
        f"{'scanners':<14} {_most(tally.scanners)}",
        f"{'kernels':<14} {_most(tally.kernels)}",
        f"{'distribution':<14} {_distribution(tally)}",
        "look first at",
        *(f"  {number}. {line}" for number, line in enumerate(_look_at(tally), 1)),
    ]
    return "\n".join(lines) + "\n"


def html_report(tally: Tally, facts: Facts) -> str:
    """Return the page."""
    template = Template(files("app.cohort").joinpath("report.html").read_text(encoding="utf-8"))
    cards = "".join(
        f'<div class="card {status}"><b>{tally.statuses[status]:,}</b>{status}</div>' for status in STATUSES
    )
    reasons = [
        (status, reason, _meaning(reason), count, tally.examples[status, reason])
        for status in ("failed", "rejected", "skipped")
        for (ended, reason), count in _ranked(tally.reasons)
        if ended == status
    ]
    scanners = [
        (scanner, count, tally.out_by_scanner[scanner] if _assessed(tally) else "–")
        for scanner, count in _ranked(tally.scanners)
    ]
    return template.substitute(
        notice=escape(NOTICE),
        version=escape(__version__),
        cards=cards,
        facts=_table((), _facts(tally, facts)[1:]),
        look="".join(f"<li>{escape(line)}</li>" for line in _look_at(tally)),
        reasons=_table(("status", "reason", "what was found", "series", "for example"), reasons),
        scanners=_table(("scanner", "series", "out of distribution"), scanners),
        kernels=_table(("kernel", "series"), _ranked(tally.kernels)),
        findings=_table(
            ("finding", "what was found", "series"),
            [(code, _meaning(code), count) for code, count in _ranked(tally.findings)],
        ),
        distribution=escape(_distribution(tally)),
    )


def _facts(tally: Tally, facts: Facts) -> list[tuple[str, str]]:
    counts = facts.files
    images, others, bad = counts["dicom"] + counts["image"], counts["other"], counts["unreadable"]
    statuses = ", ".join(f"{tally.statuses[status]:,} {status}" for status in STATUSES)
    came = f"{sum(tally.statuses.values()):,} series and parts of {facts.units:,} studies"
    held = counts["bytes"]  # 0: a server does not say how large its files are
    size = f"; {held / 1e9:.1f} GB" if held >= 1e9 else f"; {held / 1e6:.1f} MB" if held else ""
    read = f"{images:,} image files, {others:,} other files, {bad:,} unreadable{size}"
    return [
        ("series", statuses),
        ("came in", came),
        ("files", read),
        ("places", f"{tally.doubles:,} series lie in more than one folder; a series with copies is encoded once"),
        ("model", facts.model),
        ("tables", f"{facts.partition}/tables"),
    ]


def _text_block(status: str, tally: Tally) -> Iterator[str]:
    ranked = [(reason, count) for (ended, reason), count in _ranked(tally.reasons) if ended == status]
    for reason, count in ranked[:_SHOWN]:
        yield f"{status:<14} {count:>7,}  {reason}: {_meaning(reason)}"
    if len(ranked) > _SHOWN:
        yield f"{status:<14} {sum(count for _, count in ranked[_SHOWN:]):>7,}  for {len(ranked) - _SHOWN} other reasons"


def _look_at(tally: Tally) -> list[str]:
    """Return where to look first: failures, then what affects many series, then what may mislead."""
    found = [
        f"{count:,} series failed with {reason}: {_meaning(reason)} Run the command again; failures are tried again"
        for (status, reason), count in _ranked(tally.reasons)
        if status == "failed"
    ]
    total, ct = sum(tally.statuses.values()), tally.statuses["written"] + tally.statuses["rejected"]
    found += [
        f"{count:,} of {ct:,} CT series ({count / ct:.0%}) are rejected as {reason}, for example "
        f"{tally.examples[status, reason]}; `ctvae inspect --verbose` shows why"
        for (status, reason), count in _ranked(tally.reasons)
        if status == "rejected" and count >= _REJECTED_SHARE * ct
    ]
    found += [
        f"{count:,} of {total:,} series are left out by {reason}; `ctvae inspect -c` says which rule came nearest"
        for (_, reason), count in _ranked(tally.reasons)
        if reason == "NO_RULE"
    ]
    found += [
        f"{out:,} of {tally.scanners[scanner]:,} series of {scanner} are out of distribution; compare them before use"
        for scanner, out in _ranked(tally.out_by_scanner)
        if out >= _OUT_SHARE * tally.scanners[scanner]
    ]
    written = tally.statuses["written"]
    found += [
        f"{count:,} of {written:,} encoded series have the finding {code}: {_meaning(code)}"
        for code, count in _ranked(tally.findings)
        if code in _MISLEADING
    ]
    if not written:
        found.append("nothing was encoded: look at the reasons above")
    return found[:_SHOWN] or ["nothing stands out"]


_MISLEADING: Final = frozenset({"UNREADABLE_NEIGHBOUR", "MIXED_KERNEL", "HU_SATURATED", "LOSSY_COMPRESSION"})


def _assessed(tally: Tally) -> bool:
    return any(verdict is not None for verdict in tally.verdicts)


def _distribution(tally: Tally) -> str:
    if not _assessed(tally):
        return "not assessed: the bundle has no reference patients"
    counts = [(str(verdict or "not assessed"), count) for verdict, count in _ranked(tally.verdicts)]
    return ", ".join(f"{count:,} {verdict.replace('_', ' ')}" for verdict, count in counts)


def _most(counts: Counter[str]) -> str:
    ranked = _ranked(counts)
    more = f" and {len(ranked) - _SHOWN} more" if len(ranked) > _SHOWN else ""
    return ", ".join(f"{name} ({count:,})" for name, count in ranked[:_SHOWN]) + more if ranked else "–"


def _ranked(counts: Counter[K]) -> list[tuple[K, int]]:
    """Return the counts that are not 0, the largest first; equal ones by name."""
    return sorted(((key, count) for key, count in counts.items() if count), key=lambda one: (-one[1], str(one[0])))


def _meaning(code: str) -> str:
    return Code[code].line if code in Code.__members__ else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return "<p>None.</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:_SHOWN_ON_PAGE])
    more = f"<p>and {len(rows) - _SHOWN_ON_PAGE} more</p>" if len(rows) > _SHOWN_ON_PAGE else ""
    return f"<table>{f'<tr>{head}</tr>' if heads else ''}{body}</table>{more}"


def _cell(value: object) -> str:
    return f'<td class="n">{value:,}</td>' if isinstance(value, int) else f"<td>{escape(str(value))}</td>"
