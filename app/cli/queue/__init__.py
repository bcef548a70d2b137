"""`ctvae queue`: one module per command of the group, imported only when called; and what they share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from app.cli.lazy import LazyGroup
from app.cli.print_json import print_json

if TYPE_CHECKING:
    from app.pacs.database.engine import Database
    from app.pacs.settings import ListenerSettings

T = TypeVar("T")
COMMANDS = {
    "list": "List jobs with their state, newest first.",
    "series": "List series that are not in the queue yet, and what holds them up.",
    "show": "Show a job: its instances, results, and where they went.",
    "retry": "Run failed jobs, or send failed deliveries, once more.",
    "replay": "Encode past series again, with another bundle or a later ctvae.",
    "purge": "Delete instances from the spool whose results have arrived.",
    "audit": "Account for every instance that was acknowledged.",
}

group = LazyGroup("queue", "app.cli.queue", COMMANDS, help="Inspect the listener's queue, and act on it.")


@contextmanager
def opened(config: Path | None) -> Iterator[tuple[ListenerSettings, Database]]:
    """Open the queue of the settings; a missing one is not created.

    Raises:
        StartError: `NO_QUEUE`, or an error in settings or database.
    """
    from app.pacs.database.engine import open_database
    from app.pacs.settings import load_listener
    from operators.errors import StartError

    settings = load_listener(config)
    file = settings.places.folder / "queue.db"
    if settings.database is None and not file.is_file():
        text = f"no queue at {file}; give the listener's settings with -c, or start it with `ctvae listen`"
        raise StartError("NO_QUEUE", text)
    database = open_database(settings.database_url)
    try:
        yield settings, database
    finally:
        database.close()


@contextmanager
def audited(settings: ListenerSettings) -> Iterator[None]:
    """Write the events of the block into the audit trail, if the settings name a file for it."""
    from app.pacs.trail import trailing

    with trailing(settings.log.audit_file) if settings.log.audit_file else nullcontext():
        yield


def say(found: T, lines: Callable[[T], Iterable[str]], *, as_json: bool) -> None:
    """Write what was found to stdout: as JSON for programs, or in the lines that a person is shown."""
    if as_json:
        print_json(found)
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines(found)))


def when(seconds: float | None) -> str:
    """Return a time of the database in words, in the time zone of this machine."""
    from datetime import datetime

    return "" if seconds is None else datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
