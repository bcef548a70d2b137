"""The output of `ctvae inspect`: a table by study and folder, one line per series, and remarks below."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Console

from app.console import COLOURS, escaped, summary
from app.inspect import Inspection
from operators.types import Outcome

WIDTH: Final = 100
_NAMED: Final = 3  # unreadable files that are named; the others are counted
_GRID: Final = 36


def print_inspections(inspected: Sequence[Inspection], *, verbose: bool = False, decoded: bool = False) -> None:
    """Print the table on stdout.

    Args:
        inspected: every series, and every file that cannot be read.
        verbose: also print the UID, the reason and the findings of each series, and every file that cannot be read.
        decoded: whether the verdicts come from decoded pixels rather than headers alone.
    """
    console = Console(highlight=False, soft_wrap=True)
    series = [inspection for inspection in inspected if inspection.outcome.file is None]
    for (study, folder), members in _by_place(series).items():
        console.print(f"[bold]{escaped(_cut(f'{folder}  study {study}', WIDTH))}[/]")
        for inspection in members:
            colour = COLOURS[inspection.outcome.status]
            console.print(
                f"  [{colour}]{inspection.outcome.status:<9}[/]{escaped(_cut(_line(inspection), WIDTH - 11))}"
            )
            for line in _details(inspection.outcome) if verbose else ():
                console.print(f"    {escaped(line)}")
    unreadable = [inspection.outcome for inspection in inspected if inspection.outcome.file is not None]
    if verbose:
        for outcome in unreadable:
            console.print(escaped(f"{outcome.status} {outcome.file}: {outcome.reason}: {outcome.message}"))
    elif unreadable:
        console.print(escaped(_cut(_unreadable(unreadable), WIDTH)))
    if not verbose:
        for line in _reasons([inspection.outcome for inspection in series]):
            console.print(escaped(line))
    how = "verdicts after decoding" if decoded else "verdicts by headers; --pixels decodes and agrees with encode"
    summary([inspection.outcome for inspection in inspected], how if verbose else f"{how}; -v shows more")


def _by_place(series: Sequence[Inspection]) -> dict[tuple[str, str], list[Inspection]]:
    places: dict[tuple[str, str], list[Inspection]] = defaultdict(list)
    for inspection in series:
        places[inspection.study_instance_uid, inspection.outcome.folder].append(inspection)
    return dict(sorted(places.items(), key=lambda place: (place[0][1], place[0][0])))


def _line(inspection: Inspection) -> str:
    outcome = inspection.outcome
    part = f"part {outcome.part} of " if outcome.part else ""
    count = len(outcome.findings)
    findings = f" ({count} finding{'s' if count > 1 else ''})" if count else ""
    return f"{outcome.reason or _grid(outcome):<{_GRID}} {part}{inspection.description}{findings}"


def _grid(outcome: Outcome) -> str:
    if not outcome.shape or not outcome.spacing_mm:
        return ""
    return f"{'×'.join(map(str, outcome.shape))}, {'×'.join(f'{round(mm, 3):g}' for mm in outcome.spacing_mm)} mm"


def _details(outcome: Outcome) -> Iterator[str]:
    yield outcome.series_instance_uid
    if outcome.reason:
        yield f"{outcome.reason}: {outcome.message}"
    for finding in outcome.findings:
        yield f"finding {finding.code}: {finding.detail}"


def _unreadable(outcomes: Sequence[Outcome]) -> str:
    count = len(outcomes)
    plural = "s" if count > 1 else ""
    named = f" ({_NAMED} named)" if count > _NAMED else ""
    return f"{count} unreadable file{plural}{named}: {', '.join(str(outcome.file) for outcome in outcomes[:_NAMED])}"


def _reasons(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield why series were rejected or failed, each reason once, with the message of the first series."""
    of_reason: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.status in ("rejected", "failed"):
            of_reason[str(outcome.reason)].append(outcome)
    for reason, same in sorted(of_reason.items()):
        others = f" (and {len(same) - 1} more)" if len(same) > 1 else ""
        yield from textwrap.wrap(f"{reason}{others}: {same[0].message}", WIDTH, subsequent_indent="  ")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
