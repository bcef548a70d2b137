"""`ctvae listen`: receive CT from a PACS or modality, encode each series, and keep the results."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated

import typer

from app.process import LogLevel, guarded, set_log_form


def command(
    config: Annotated[Path | None, typer.Option("-c", "--config", help="Settings; default: app.yaml.")] = None,
    log_level: Annotated[LogLevel, typer.Option("-l", "--log-level", case_sensitive=False)] = LogLevel.INFO,
) -> int:
    """Listen for CT until SIGTERM or Ctrl-C, as section listener of the settings says."""

    def run() -> int:
        from app.pacs.listen import listener
        from app.pacs.page.serve import page
        from app.pacs.settings import load_listener
        from app.pacs.trail import trailing
        from app.settings import load_settings

        settings = load_listener(config)
        set_log_form(settings.log.form)
        with (
            trailing(settings.log.audit_file),
            listener(settings, load_settings(config), config) as running,
            page(settings.page, running.database, running.places, running.checks, running.wake),
        ):
            try:
                threading.Event().wait()
            except KeyboardInterrupt:  # how a service is ended: no failure
                return 0
        return 0

    return guarded(run, log_level)
