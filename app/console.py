"""What a person sees in the terminal: progress on stderr, results on stdout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from operators.types import Outcome

if TYPE_CHECKING:
    from models.bundle.check import Verdict

COLOURS = {"written": "green", "eligible": "green", "rejected": "yellow", "skipped": "dim", "failed": "red"}


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr for as long as the block runs; silent where stderr is no terminal (the log is enough there).

    Yields:
        A function to call with (done, total).
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def list_outcomes(outcomes: Sequence[Outcome], descriptions: Sequence[str]) -> None:
    """Some lines a series, on stdout: verdict and grid, what it is, where, why, what was found; then the counts.

    Args:
        outcomes: how each ended.
        descriptions: what each is, in the same order.
    """
    console = Console(highlight=False, soft_wrap=True)
    for outcome, description in zip(outcomes, descriptions, strict=True):
        console.print(
            f"[{COLOURS[outcome.status]}]{outcome.status:<9}[/] [bold]{_escaped(_grid(outcome) or description)}[/]"
        )
        for line in _about(outcome, description if outcome.shape else ""):
            console.print(f"          {_escaped(line)}")
    summary(outcomes, "")


def summary(outcomes: Sequence[Outcome], where: str) -> None:
    """One line on stdout: how many series ended how, and where to look."""
    counts = Counter(outcome.status for outcome in outcomes)
    text = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "no series there"
    Console(highlight=False, soft_wrap=True).print(_escaped(f"{text}; {where}" if where else text))


def verdict_lines(verdicts: Sequence[Verdict]) -> str:
    """Return one line per verdict: good, BAD, or not known."""
    words = {True: "good", False: "BAD", None: "-"}
    width = max(len(one.question) for one in verdicts)
    return "".join(f"{words[one.good]:<5} {one.question:<{width}}  {one.detail}\n" for one in verdicts)


def _grid(outcome: Outcome) -> str:
    if not outcome.shape or not outcome.spacing_mm:
        return ""
    shape = " × ".join(map(str, outcome.shape))
    return f"{shape} voxels, {' × '.join(f'{round(value, 3):g}' for value in outcome.spacing_mm)} mm"


def _about(outcome: Outcome, description: str) -> Iterator[str]:
    if description:
        yield description
    part = "" if outcome.part is None else f", part {outcome.part}"
    yield f"{outcome.series_instance_uid}{part} in {outcome.folder}"
    if outcome.reason:
        yield f"{outcome.reason}: {outcome.message}"
    for finding in outcome.findings:
        yield f"finding {finding.code}: {finding.detail}"


def _escaped(text: str) -> str:
    """Text of a file's header is no markup, and its control characters do not reach the terminal."""
    from rich.markup import escape

    return escape("".join(character if character.isprintable() else "?" for character in text))
