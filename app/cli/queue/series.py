"""`ctvae queue series`: series before they are in the queue, one line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from app.process import LogLevel, guarded


def command(
    most: Annotated[int, typer.Option("-n", "--most", min=1, help="How many.")] = 50,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="Settings; default: app.yaml.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.WARN,
) -> int:
    """List series that are not in the queue: they arrive, or something holds them up."""

    def run() -> int:
        from app.cli.queue import opened, say
        from app.pacs.look import unqueued

        with opened(config) as (_, database):
            found = unqueued(database, most)
        say(found, lines, as_json=as_json)
        return 0

    return guarded(run, log_level)


def lines(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield what is known of each series: how much came, since when, and what holds it up until when."""
    from app.cli.queue import when

    for one in found:
        count = f"{one['instances']} of {one['expected']}" if one["expected"] else str(one["instances"])
        line = f"{one['series_uid']}  {one['state']}  {count} instances, last {when(one['last_at'])}"
        if one["reason"]:
            line += f"  {one['reason']}"
        if one["attempts"]:
            line += f"; attempt {one['attempts']}, next {when(one['not_before'])}"
        yield line
