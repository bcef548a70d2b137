"""What a person sees in the terminal: progress on stderr, results on stdout."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from rich.console import Console

from operators.printable import printable
from operators.types import Outcome

if TYPE_CHECKING:
    from models.bundle.check import Verdict

logger = logging.getLogger(__name__)
LOG_EVERY_S = 30.0
_REPORT_EVERY: Final = 100
T = TypeVar("T")
COLOURS = {"written": "green", "eligible": "green", "rejected": "yellow", "skipped": "dim", "failed": "red"}


class Report(Protocol):
    """A function that long work calls to report its progress."""

    def __call__(self, done: float, total: float, text: str | None = None, note: str = "") -> None:
        """Show `done` of `total` (or a fraction of 1); a new text begins a new count, a note is shown beside it.

        A total of 0 says that it is not known yet.
        """


def no_report(done: float, total: float, text: str | None = None, note: str = "") -> None:
    """Show nothing."""


def counted(things: Iterable[T], total: int, text: str, report: Report) -> Iterator[T]:
    """Yield things, and report how many of them there were so far."""
    for done, thing in enumerate(things, 1):
        yield thing
        if done % _REPORT_EVERY == 0 or done == total:
            report(done, total, text)


@contextmanager
def progress(what: str, *, silent: bool = False) -> Iterator[Report]:
    """Show progress and the time left on stderr while the block runs.

    On a terminal it is a bar, elsewhere a line of the log (INFO) every half minute.

    Args:
        what: description of the work.
        silent: show nothing, as in all processes of a training except the first.
    """
    console = Console(stderr=True, highlight=False)
    if silent:
        yield no_report
    elif console.is_terminal:
        with _bar(what, console) as report:
            yield report
    else:
        yield _log_lines(what)


@contextmanager
def _bar(what: str, console: Console) -> Iterator[Report]:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Column

    text_column = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=False, ratio=1))
    columns = (SpinnerColumn(), BarColumn(bar_width=20), TextColumn("{task.fields[count]}"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), text_column, console=console, transient=True) as bar:
        # The log goes through the bar, which replaces stderr while it is shown; otherwise they overwrite each other.
        handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.StreamHandler)]
        before = [handler.setStream(sys.stderr) for handler in handlers]
        task, shown = bar.add_task(what, total=None, count=""), what

        def report(done: float, total: float, text: str | None = None, note: str = "") -> None:
            nonlocal shown, task
            if total != 1 and text not in (None, shown):
                bar.remove_task(task)
                task = bar.add_task("", total=None, count="")
            shown = text or shown
            bar.update(task, completed=done, total=total or None, description=shown, count=_count(done, total, note))

        try:
            yield report
        finally:
            for handler, stream in zip(handlers, before, strict=True):
                if stream is not None:
                    handler.setStream(stream)


def _log_lines(what: str) -> Report:
    """Return a Report that logs a line every half minute, with the time left at the average pace so far.

    The pace is that of this process: what a resumed training did earlier took no time here.
    """
    last = time.monotonic()
    shown, total_before, done_before = what, 0.0, 0.0
    began, done_at_first = last, 0.0

    def report(done: float, total: float, text: str | None = None, note: str = "") -> None:
        nonlocal last, shown, total_before, done_before, began, done_at_first
        now = time.monotonic()
        new_text = total != 1 and text not in (None, shown)
        if new_text or total != total_before or done < done_before:
            began, done_at_first = now, done
        shown, total_before, done_before = text or shown, total, done
        if now - last < LOG_EVERY_S:
            return
        last = now
        paced = done_at_first < done < total
        left = (now - began) * (total - done) / (done - done_at_first) if paced else 0.0
        logger.info("%s: %s%s", shown, _count(done, total, note), f", about {_duration(left)} left" if paced else "")

    return report


def _count(done: float, total: float, note: str = "") -> str:
    count = f"{done:.0%}" if total == 1 else f"{done:.10g}/{total:.10g}" if total else f"{done:.10g}"
    return f"{count}, {note}" if note else count


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def summary(outcomes: Sequence[Outcome], where: str) -> None:
    """Print one line: how many series ended in each way, and where to look."""
    counts = Counter(outcome.status for outcome in outcomes)
    text = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "no series there"
    Console(highlight=False, soft_wrap=True).print(escaped(f"{text}; {where}" if where else text))


def verdict_lines(verdicts: Sequence[Verdict], width: int = 0) -> str:
    """Return one line per verdict: good, BAD, or not known."""
    words = {True: "good", False: "BAD", None: "-"}
    width = max(width, *(len(verdict.question) for verdict in verdicts))
    return "".join(f"{words[verdict.good]:<5} {verdict.question:<{width}}  {verdict.detail}\n" for verdict in verdicts)


def escaped(text: str) -> str:
    """Return text from a file with markup escaped, and without control characters that would reach the terminal."""
    from rich.markup import escape

    return escape(printable(text))
