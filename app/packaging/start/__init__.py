"""How the container starts, under each convention that calls it. Runs inside the image; calls what encodes."""

from __future__ import annotations

import os
import sys


def main(argv: list[str] | None = None) -> int:
    """Run what the container was called for.

    `show`, `env`, `help` and `extract` are the verbs of the MAP specification, a command of `ctvae` is that command,
    and everything else encodes, as the environment and the mounted folders say.

    Args:
        argv: arguments without the program's name; None for those of the process.

    Returns:
        The exit code of the contract.
    """
    arguments = sys.argv[1:] if argv is None else argv
    word = arguments[0] if arguments else ""
    from app.packaging.start.describe import VERBS, describe

    if word in VERBS:
        return describe(arguments)
    from app.cli import COMMANDS

    if word in COMMANDS or word == "--version":
        from app.cli import main as command

        return command(arguments)
    from app.packaging.start.batch import batch

    return batch(arguments, os.environ)
