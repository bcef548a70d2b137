"""`ctvae queue retry`: failed jobs and deliveries, once more."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.process import LogLevel, guarded


def command(
    job_ids: Annotated[
        list[int] | None, typer.Argument(metavar="[JOB…]", help="Numbers, as `queue list` shows them.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed.")] = False,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="Settings; default: app.yaml.")] = None,
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.WARN,
) -> int:
    """Run failed jobs, or send failed deliveries, once more, with all their attempts.

    With --failed, series that wait after a failed attempt are checked now.
    """

    def run() -> int:
        from app.cli.queue import opened
        from app.pacs.look import look_again, retry
        from operators.errors import StartError

        if bool(job_ids) is failed:
            raise StartError("USAGE", "expected numbers of jobs, or --failed for all that failed")
        with opened(config) as (_, database):
            worked, sent = retry(database, job_ids or None)
            looked = look_again(database) if failed else 0
        done = f"{worked} jobs will run again, {sent} deliveries will be sent again"
        sys.stdout.write(done + (f", {looked} series will be checked again\n" if failed else "\n"))
        return 0 if worked or sent or looked else 2

    return guarded(run, log_level)
