"""`ctvae queue replay`: past series, with another bundle."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import ConfigOption, LogLevelOption
from app.process import LogLevel, guarded


def command(
    since: Annotated[
        datetime,
        typer.Option(
            metavar="TIME",
            help="Series whose last job was queued then or later: 2026-11-01 or 2026-11-01T08:00:00.",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
        ),
    ],
    models: Annotated[
        Path | None, typer.Option("-m", "--model", help="Bundle or folder of bundles; default: that of the settings.")
    ] = None,
    config: ConfigOption = None,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Encode past series again, after everything that arrives new. Exit code 2: there is nothing to encode again."""

    def run() -> int:
        from app.cli.queue import audited, opened
        from app.pacs import trail
        from app.pacs.replay import replay
        from app.pacs.work import work_of
        from app.settings import load_settings

        work = work_of(load_settings(config), models)
        with opened(config) as (settings, database), audited(settings):
            made = replay(database, since.astimezone().timestamp(), work)
            if made.queued:
                trail.replayed(made.queued, work.weights_sha256)
        for uid, error in made.failed.items():
            sys.stderr.write(f"INTERNAL_ERROR: series {uid} is not queued ({error}); report it\n")
        counts = {"queued": len(made.queued), "known already": made.known, "purged from the spool": made.purged}
        sys.stdout.write(", ".join(f"{count} series {what}" for what, count in counts.items()) + "\n")
        if made.failed:
            return 1
        return 0 if made.queued else 2

    return guarded(run, log_level)
