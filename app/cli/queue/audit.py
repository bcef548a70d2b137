"""`ctvae queue audit`: acknowledged = delivered + waiting + ended with a reason."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from app.cli.options import ConfigOption, LogLevelOption
from app.cli.print_json import print_json
from app.process import LogLevel, guarded

MOST_NAMED = 20


def command(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every instance that is lost.")] = False,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Account for every instance that was acknowledged. Exit code 0: none is lost; 1: some are."""

    def run() -> int:
        from app.cli.queue import opened
        from app.pacs.audit import audit

        with opened(config) as (settings, database):
            found = audit(database, settings.places)
        if as_json:
            print_json({**asdict(found), "difference": found.difference})
            return 1 if found.difference else 0
        ended = sum(found.ended.values())
        sys.stdout.write(
            f"{found.acknowledged} instances acknowledged = {found.delivered} in a delivered result "
            f"+ {found.waiting} waiting + {ended} ended with a reason; difference {found.difference}\n"
        )
        for reason, count in found.ended.items():
            sys.stdout.write(f"  {count} ended: {reason}\n")
        for line in found.lost[:MOST_NAMED]:
            sys.stdout.write(f"  LOST {line}\n")
        if len(found.lost) > MOST_NAMED:
            sys.stdout.write(f"  and {len(found.lost) - MOST_NAMED} more; --json names all\n")
        if found.unknown_files:
            where = "in the spool but not in the database; they were not acknowledged, and the next start enters them"
            sys.stdout.write(f"  {len(found.unknown_files)} files are {where}\n")
        return 1 if found.difference else 0

    return guarded(run, log_level)
