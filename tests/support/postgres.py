"""A PostgreSQL of Debian's packages, for as long as the tests run; reached by a socket alone, never by the network."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.checkout import skip_or_fail
from tests.support.waiting import PATIENCE_S

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@contextmanager
def postgres() -> Iterator[str]:
    """Start a server; yields the URL of its one database.

    The server refuses root, so that root starts it as the user of Debian's package.
    """
    if not PROGRAMS:
        skip_or_fail("no PostgreSQL; install postgresql")
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="ctvae-pg-"))  # a socket's path has at most 107 characters
    try:
        if as_user:
            shutil.chown(folder, "postgres", "postgres")
        data = folder / "data"
        run = [*as_user, str(PROGRAMS[-1] / "pg_ctl"), "-D", str(data), "-w", "-t", f"{PATIENCE_S:.0f}"]
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off -c max_connections=60"
        make = [*as_user, str(PROGRAMS[-1] / "initdb"), "-D", str(data), "-A", "trust", "-U", "ctvae", "--no-sync"]
        subprocess.run(make, check=True, capture_output=True, cwd="/")
        start = [*run, "-l", str(folder / "log"), "-o", options, "start"]
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd="/")
        try:
            yield f"postgresql://ctvae@/postgres?host={folder}"
        finally:
            subprocess.run([*run, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def emptied(server: str) -> str:
    """Empty the database of a server, and return its URL."""
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        listed = "SELECT nspname FROM pg_namespace WHERE nspname = 'public' OR nspname LIKE 'ctvae_%'"
        for (schema,) in connection.execute(listed).fetchall():
            connection.execute(f'DROP SCHEMA "{schema}" CASCADE')
        connection.execute("CREATE SCHEMA public")
    return server
