"""`ctvae queue purge`: retention; lists what it would delete, and deletes if told to."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from app.cli.options import ConfigOption, LogLevelOption
from app.process import LogLevel, guarded


def command(
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only list what would be deleted.")] = False,
    days: Annotated[
        float | None,
        typer.Option(min=0, help="Days since the result arrived everywhere; default: retention_days of the settings."),
    ] = None,
    refused: Annotated[
        bool,
        typer.Option(
            "--refused", help="Also delete series that were rejected or skipped; those that failed always stay."
        ),
    ] = False,
    config: ConfigOption = None,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Delete instances from the spool whose results have arrived; results and the queue's rows stay."""

    def run() -> int:
        from app.cli.queue import audited, opened, when
        from app.pacs.purge import purge, purgeable

        with opened(config) as (settings, database):
            least = settings.retention_days if days is None else days
            found = purgeable(database, settings.destinations, least, refused=refused)
            for series in found:
                megabytes = f"{series.size_bytes / 1e6:.1f} MB"
                line = (
                    f"{series.series_uid}  {series.instances} instances, {megabytes}, arrived {when(series.ended_at)}"
                )
                sys.stdout.write(line + "\n")
            count, size = sum(series.instances for series in found), sum(series.size_bytes for series in found) / 1e6
            if not yes:
                done = "would be deleted; --yes deletes them"
                sys.stdout.write(f"{len(found)} series, {count} instances, {size:.1f} MB: {done}\n")
                return 0
            with audited(settings):
                purged = purge(database, settings.places, tuple(series.series_uid for series in found))
        for uid, why in purged.failed.items():
            sys.stderr.write(f"{why}; series {uid} is only partly purged; run purge again to continue\n")
        sys.stdout.write(f"{len(found) - len(purged.failed)} series, {purged.instances} instances: deleted\n")
        return 1 if purged.failed else 0

    return guarded(run, log_level)
