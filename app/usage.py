"""What a wrong call looks like, whichever command it is: one line on stderr and exit code 3 of the contract."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

COULD_NOT_START = 3


class OneLineParser(argparse.ArgumentParser):
    """argparse's own exit code for a wrong call is 2, which would mean here that nothing was eligible."""

    def error(self, message: str) -> NoReturn:
        """Say it in one line, and end."""
        self.exit(COULD_NOT_START, f"USAGE: {message}; see {self.prog} --help\n")


def tolerate_any_text() -> None:
    """A terminal that knows no × or – gets a question mark, not an end of the run."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
