"""`ctvae queue show`: everything known about one job."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from app.cli.options import ConfigOption, JsonOption, LogLevelOption
from app.process import LogLevel, guarded

ROWS = {"instances": "instances", "results": "result", "deliveries": "delivery", "commitments": "commitment"}


def command(
    job_id: Annotated[int, typer.Argument(metavar="JOB", help="Number of the job, as `queue list` shows it.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Show a job: its instances, results, and where they went."""

    def run() -> int:
        from app.cli.queue import opened, say
        from app.pacs.look import job_with_all
        from operators.errors import StartError

        with opened(config) as (_, database):
            found = job_with_all(database, job_id)
        if found is None:
            raise StartError("NO_JOB", f"no job {job_id}; `ctvae queue list` shows the numbers")
        say(found, lines, as_json=as_json)
        return 0

    return guarded(run, log_level)


def lines(found: dict[str, Any]) -> list[str]:
    """Return what is known about a job as lines: its own values, then the rows that belong to it."""
    from app.cli.queue import when

    def shown(name: str, value: object) -> str:
        if isinstance(value, float) and (name.endswith("_at") or name == "not_before"):
            return when(value)
        return str(value)

    shown_lines = [f"{name:<15} {shown(name, value)}" for name, value in found.items() if not isinstance(value, list)]
    for name, rows in found.items():
        for row in rows if isinstance(rows, list) else []:
            values = ", ".join(f"{key} {shown(key, value)}" for key, value in row.items() if value is not None)
            shown_lines.append(f"{ROWS[name]:<15} {values}")
    return shown_lines
