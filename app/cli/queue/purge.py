"""`ctvae queue purge`: retention; lists what it would delete, and deletes if told to."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from app.process import LogLevel, guarded


def command(
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only say what would be deleted.")] = False,
    days: Annotated[
        float | None, typer.Option(min=0, help="Since the result arrived; default: retention_days of the settings.")
    ] = None,
    refused: Annotated[
        bool, typer.Option("--refused", help="Series that were rejected or skipped, too; never those that failed.")
    ] = False,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="Settings; default: app.yaml.")] = None,
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.WARN,
) -> int:
    """Delete instances whose results have arrived from the spool; results and the queue's rows stay."""

    def run() -> int:
        from app.cli.queue import opened, when
        from app.pacs.purge import purge, purgeable
        from app.pacs.trail import trailing

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
            with trailing(settings.log.audit_file) if settings.log.audit_file else nullcontext():
                purged = purge(database, settings.places, tuple(series.series_uid for series in found))
        for uid, why in purged.failed.items():
            sys.stderr.write(f"{why}; series {uid} is not wholly purged, purge again to go on with it\n")
        sys.stdout.write(f"{len(found) - len(purged.failed)} series, {purged.instances} instances: deleted\n")
        return 1 if purged.failed else 0

    return guarded(run, log_level)
