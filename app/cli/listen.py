"""`ctvae listen`: receive CT from a PACS or modality, encode each series, and keep the results."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.options import ConfigOption, LogLevelOption
from app.process import LogLevel, guarded, set_log_form

if TYPE_CHECKING:
    from app.pacs.settings import ListenerSettings


def command(
    config: ConfigOption = None,
    log_level: LogLevelOption = LogLevel.INFO,
) -> int:
    """Receive CT, encode it and send results until SIGTERM or Ctrl-C; section `listener` of the settings says how."""

    def run() -> int:
        from app.pacs.settings import load_listener

        return serve(load_listener(config), config)

    return guarded(run, log_level)


def serve(settings: ListenerSettings, config: Path | None, *, dicom: bool = True) -> int:
    """Run the service until the process is told to end.

    Args:
        settings: settings of the listener.
        config: settings file; None for the default one.
        dicom: whether to serve DICOM peers.
    """
    from app.pacs.listen import listener
    from app.pacs.page.serve import page
    from app.pacs.trail import trailing
    from app.settings import load_settings

    set_log_form(settings.log.form)
    with (
        trailing(settings.log.audit_file),
        listener(settings, load_settings(config), config, dicom=dicom) as running,
        page(
            settings.page,
            running.database,
            running.places,
            running.checks,
            running.wake,
            running.intake,
            settings.limits,
        ),
    ):
        try:
            threading.Event().wait()
        except KeyboardInterrupt:  # the usual end of a service, not a failure
            return 0
    return 0
