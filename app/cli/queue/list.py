"""`ctvae queue list`: jobs, one line each."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from app.process import LogLevel, guarded


def command(
    states: Annotated[
        list[str] | None,
        typer.Option("--state", help="waiting, leased, done, refused, failed or superseded. May be given again."),
    ] = None,
    most: Annotated[int, typer.Option("-n", "--most", min=1, help="How many.")] = 50,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="Settings; default: app.yaml.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.WARN,
) -> int:
    """List jobs with their state, newest first."""

    def run() -> int:
        from app.cli.queue import opened, when
        from app.pacs.database.tables import JOB_STATES
        from app.pacs.look import jobs
        from operators.errors import StartError

        if unknown := sorted(set(states or ()) - set(JOB_STATES)):
            raise StartError("USAGE", f"no state {', '.join(unknown)}; expected one of {', '.join(JOB_STATES)}")
        with opened(config) as (_, database):
            found = jobs(database, states or (), most)
        if as_json:
            sys.stdout.write(json.dumps(found, indent=1) + "\n")
            return 0
        for one in found:
            about = f"{one['instances']} instances, revision {one['revision']}"
            shadow = ", shadow" if one["kind"] == "shadow" else ""
            reason = f"  {one['reason']}" if one["reason"] else ""
            sent = f"  {', '.join(one['deliveries'])}" if one["deliveries"] else ""
            created = when(one["created_at"])
            line = f"{one['id']:>6}  {one['state']:<10}  {created}  {one['series_uid']}  {about}{shadow}{reason}{sent}"
            sys.stdout.write(line + "\n")
        return 0

    return guarded(run, log_level)
