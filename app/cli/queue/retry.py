"""`ctvae queue retry`: failed jobs and deliveries, once more."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from app.cli.options import ConfigOption, LogLevelOption
from app.process import LogLevel, guarded


def command(
    job_ids: Annotated[
        list[int] | None, typer.Argument(metavar="JOB", help="Numbers of jobs, as `queue list` shows them.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Retry everything that failed.")] = False,
    config: ConfigOption = None,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Run failed jobs, or send failed deliveries, once more, with all their attempts.

    With --failed, series that wait after a failed attempt are also checked now. Exit code 2: there is nothing to retry.
    """

    def run() -> int:
        from app.cli.queue import audited, opened
        from app.pacs import trail
        from app.pacs.look import look_again, retry
        from operators.errors import StartError

        if bool(job_ids) is failed:
            raise StartError("USAGE", "expected numbers of jobs, or --failed for all that failed")
        with opened(config) as (settings, database), audited(settings):
            worked, sent = retry(database, job_ids or None)
            if worked or sent:
                trail.retried(job_ids or None, worked, sent)
            looked = look_again(database) if failed else 0
        done = f"{worked} jobs will run again, {sent} deliveries will be sent again"
        sys.stdout.write(done + (f", {looked} series will be checked again\n" if failed else "\n"))
        return 0 if worked or sent or looked else 2

    return guarded(run, log_level)
