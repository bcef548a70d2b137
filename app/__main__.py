"""`python -m app -i IN -o OUT -m MODELS`, which `monai-deploy exec app` and the MAP also start.

It can be started as `python <folder of this file>` too: the packages are then found relative to the file.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    _here = Path(__file__).resolve().parent
    # This folder must not be on the path: `app/settings.py` would answer to `import settings`.
    sys.path[0] = str(next((place for place in (_here, _here.parent) if (place / "operators").is_dir()), _here))

import argparse
from typing import TYPE_CHECKING

from app.process import LogLevel, OneLineParser, guarded, stop_if_asked

if TYPE_CHECKING:
    from app.settings import RunPaths, Settings
    from operators.types import Outcome


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the SDK's own flags (monai.deploy.core.arg_parser), and the settings file."""
    parser = OneLineParser(
        prog="python -m app",
        description="A folder of CT in, VAE features out as DICOM SR and JSON. Not for diagnosis.",
        epilog="Exit code: 0 written, 1 something failed, 2 nothing to write, 3 could not start.",
    )
    parser.add_argument("-i", "--input", type=Path, help="folder with CT (default: HOLOSCAN_INPUT_PATH, else input)")
    parser.add_argument(
        "-o", "--output", type=Path, help="for the results (default: HOLOSCAN_OUTPUT_PATH, else output)"
    )
    parser.add_argument(
        "-m",
        "--model",
        type=Path,
        help="bundle or folder of bundles (default: HOLOSCAN_MODEL_PATH, else the shipped one)",
    )
    parser.add_argument("-c", "--config", type=Path, help="settings (default: HOLOSCAN_CONFIG_PATH, else app.yaml)")
    parser.add_argument(
        "-l", "--log-level", type=str.upper, choices=[level.value for level in LogLevel], default="INFO"
    )
    parser.add_argument("-w", "--workdir", help="accepted as the SDK does; nothing is kept there")
    parser.add_argument("-t", "--triton-server-netloc", help="accepted as the SDK does; the model runs in this process")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the graph over a folder.

    Args:
        argv: arguments without the program's name; None for those of the process.

    Returns:
        The exit code, see `app.exit_codes`.
    """
    arguments = parse(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _run(arguments), LogLevel(arguments.log_level))


def _run(arguments: argparse.Namespace) -> int:
    from app.settings import check_paths, load_settings

    settings = load_settings(arguments.config)
    return encode_graph(check_paths(arguments.input, arguments.output, arguments.model), settings)


def encode_graph(paths: RunPaths, settings: Settings) -> int:
    """Encode every series of the input in the graph.

    Args:
        paths: paths of the run.
        settings: settings of the run.

    Returns:
        The exit code, see `app.exit_codes`.
    """
    from app.console import progress
    from app.exit_codes import exit_code
    from app.ledger import Ledger, before_ledger
    from app.open_pipeline import open_pipeline
    from app.read_input import open_series

    with before_ledger(paths.output):
        pipeline = open_pipeline(settings, paths.models, paths.output)

        from app.application import CtVaeApplication  # the SDK takes seconds to import, so check the call first

    with (
        Ledger(paths.output) as ledger,
        progress("reading headers") as report,
        open_series(paths.input, settings, ledger.enter_inventory, report) as jobs,
    ):

        def enter(outcome: Outcome) -> None:
            ledger.enter(outcome)
            report(len(ledger.outcomes), ledger.series_found, "encoding series")

        CtVaeApplication(jobs, pipeline, enter).run()
        stop_if_asked()  # the graph's C++ may have swallowed what SIGTERM raised
    return exit_code(ledger.outcomes)


if __name__ == "__main__":
    sys.exit(main())
