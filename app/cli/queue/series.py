"""`ctvae queue series`: series before they are in the queue, one line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from app.cli.options import ConfigOption, JsonOption, LogLevelOption, MostOption
from app.process import LogLevel, guarded


def command(
    most: MostOption = 50,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """List series that are not in the queue yet: they are arriving, or something holds them up."""

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
