"""`ctvae queue list`: jobs, one line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from app.cli.options import ConfigOption, JsonOption, LogLevelOption, MostOption
from app.process import LogLevel, guarded


def command(
    states: Annotated[
        list[str] | None,
        typer.Option("--state", help="waiting, leased, done, refused, failed or superseded. May be repeated."),
    ] = None,
    most: MostOption = 50,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """List jobs with their state, newest first."""

    def run() -> int:
        from app.cli.queue import opened, say
        from app.pacs.database.tables import JOB_STATES
        from app.pacs.look import jobs
        from operators.errors import StartError

        if unknown := sorted(set(states or ()) - set(JOB_STATES)):
            raise StartError("USAGE", f"no state {', '.join(unknown)}; expected one of {', '.join(JOB_STATES)}")
        with opened(config) as (_, database):
            found = jobs(database, states or (), most)
        say(found, lines, as_json=as_json)
        return 0

    return guarded(run, log_level)


def lines(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield what is known of each job: how it stands, what it is about, and where its results went."""
    from app.cli.queue import when

    for job in found:
        about = f"{job['instances']} instances, revision {job['revision']}"
        shadow = ", shadow" if job["kind"] == "shadow" else ""
        reason = f"  {job['reason']}" if job["reason"] else ""
        sent = f"  {', '.join(job['deliveries'])}" if job["deliveries"] else ""
        created = when(job["created_at"])
        yield f"{job['id']:>6}  {job['state']:<10}  {created}  {job['series_uid']}  {about}{shadow}{reason}{sent}"
