"""`ctvae watch`: encode what another program drops into a folder, or what comes to a DICOMweb server."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from app.cli.listen import serve
from app.cli.options import ConfigOption, LogLevelOption, TokenFileOption
from app.process import LogLevel, guarded


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="Folder into which another program writes CT, or URL of a DICOMweb server."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for a copy of the results, in the layout of encode.")
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(help='QIDO-RS query for series, such as "Modality=CT&StudyDate=20261101-"; default: all CT.'),
    ] = None,
    token_file: TokenFileOption = None,
    config: ConfigOption = None,
    log_level: LogLevelOption = LogLevel.INFO,
) -> int:
    """Encode each CT series that appears in a folder or on a DICOMweb server, until SIGTERM or Ctrl-C.

    The section `listener` of the settings says how. Spool, queue and results lie in listener.folder; results also go to
    -o and to listener.destinations.
    """

    def run() -> int:
        from app.pacs.destination import Destination
        from app.pacs.settings import load_listener
        from app.settings import check_output

        settings = load_listener(config)
        watch = settings.watch
        if source.startswith(("http://", "https://")):
            filters, token = query or watch.query, str(token_file) if token_file else watch.token_file
            watch = dataclasses.replace(watch, folder=None, url=source, query=filters, token_file=token)
        else:
            watch = dataclasses.replace(watch, folder=source, url=None)
        if output is not None:
            check_output(output)
            to = Destination("output of watch", kind="folder", path=str(output.resolve()))
            settings = dataclasses.replace(settings, destinations=(*settings.destinations, to))
        return serve(dataclasses.replace(settings, watch=watch), config, dicom=False)

    return guarded(run, log_level)
