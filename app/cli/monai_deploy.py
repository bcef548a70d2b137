"""The `monai-deploy` command: the SDK's own, and the `exec` that the SDK dropped at 0.6.

`monai-deploy exec APP -i IN -o OUT -m MODELS` starts `python APP` with those flags, which every application of the SDK
understands. Every other verb is passed to the SDK's command unchanged.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from app.exit_codes import COULD_NOT_START
from app.extras import lacking
from app.process import OneLineParser

LOG_LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "CRITICAL")
PASSED_ON = {"log_level": "-l", "input": "-i", "output": "-o", "model": "-m", "workdir": "-w"}
IGNORED = ("graph", "datastore", "executor")
HELP_OF_EXEC = """
added by ctvae:
  exec                  run an application folder or .py file here, without a container
                        (monai-deploy exec --help)
"""


def main(argv: list[str] | None = None) -> int:
    """Run one `monai-deploy` command.

    Args:
        argv: program name and arguments; None takes `sys.argv`. The SDK uses the name in `sys.argv` to choose between
            its two packaging kits, so the script must be called `monai-deploy`.

    Returns:
        0 after a verb of the SDK (where that fails it raises `SystemExit`); `exec` does not return.
    """
    argv = list(sys.argv if argv is None else argv)
    verb = _position_of_verb(argv)
    if verb is not None and argv[verb] == "exec":
        _exec(argv[1:verb] + argv[verb + 1 :])
    _hand_to_sdk(argv, has_verb=verb is not None)
    return 0


def _position_of_verb(argv: list[str]) -> int | None:
    """Return the position of the verb: the first word that is neither a flag nor the value of `--log-level`."""
    for position in range(1, len(argv)):
        if not argv[position].startswith("-") and argv[position - 1] not in ("-l", "--log-level"):
            return position
    return None


def _hand_to_sdk(argv: list[str], *, has_verb: bool) -> None:
    """Run the SDK's own command; if that shows its general help, add `exec` below it."""
    try:
        from holoscan_cli.__main__ import main as sdk_main
    except ModuleNotFoundError as error:
        text = lacking(error)
        if text is None:
            raise
        sys.stderr.write(f"{text}\n")
        sys.exit(COULD_NOT_START)

    try:
        sdk_main(argv)
    except SystemExit as end:
        if not has_verb and not end.code:
            sys.stdout.write(HELP_OF_EXEC)
        raise


def _exec(arguments: list[str]) -> NoReturn:
    """Replace this process by `python APP`, so that its exit code, signals and terminal are the command's own."""
    parser = _exec_parser()
    args, others = parser.parse_known_args(arguments)
    program = _program(Path(args.app).resolve())
    if program is None:
        parser.error(
            "found no application at APP; expected a folder with __main__.py or app.py, or a .py file; "
            "check the path, which counts from the current folder"
        )
    for name in IGNORED:
        if getattr(args, name) is not None:
            sys.stderr.write(f"{parser.prog}: --{name} is ignored: the SDK has not had it since 0.6\n")
    flags = [
        word
        for name, flag in PASSED_ON.items()
        if getattr(args, name) is not None
        for word in (flag, getattr(args, name))
    ]
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, str(program), *flags, *others]
    os.execve(sys.executable, command, _environment(program))  # noqa: S606 - no shell is meant


def _exec_parser() -> OneLineParser:
    """Return the parser of `exec` with the flags of SDK 0.5; missing flags are left to the application."""
    parser = OneLineParser(
        prog="monai-deploy exec",
        usage="%(prog)s [-h] [-l LEVEL] [-i INPUT] [-o OUTPUT] [-m MODELS] [-w WORKDIR] APP [flags of the application]",
        description="Run an application of the MONAI Deploy App SDK as `python APP` would, without a container.",
        epilog="Other flags go to the application as they are. The exit code is the application's; 3: could not start.",
        allow_abbrev=False,
    )
    parser.add_argument("app", metavar="APP", help="folder with __main__.py or app.py, or a .py file")
    parser.add_argument("-l", "--log-level", type=str.upper, choices=LOG_LEVELS, help="set the logging level")
    parser.add_argument("-i", "--input", help="path to the input folder (default: HOLOSCAN_INPUT_PATH, or input)")
    parser.add_argument("-o", "--output", help="path to the output folder (default: HOLOSCAN_OUTPUT_PATH, or output)")
    parser.add_argument(
        "-m", "--model", "--models", help="path to the models (default: HOLOSCAN_MODEL_PATH, or models)"
    )
    parser.add_argument("-w", "--workdir", help="path to the workspace folder (default: HOLOSCAN_WORKDIR)")
    for name in IGNORED:
        parser.add_argument(f"--{name}", help="accepted and ignored: a choice of SDK 0.5 and earlier")
    return parser


def _program(app: Path) -> Path | None:
    """Return what Python starts: the folder if it has a `__main__.py`, else its `app.py`, else the file."""
    if (app / "__main__.py").is_file():
        return app
    if (app / "app.py").is_file():
        return app / "app.py"
    if app.suffix != ".py" or not app.is_file():
        return None
    return app.parent if app.name == "__main__.py" else app


def _environment(program: Path) -> dict[str, str]:
    """Return the environment, with the parent of an application's folder on Python's path, as the old `exec` did.

    An application that imports itself by the name of its folder then gets the copy named on the command line, rather
    than one that happens to be installed.
    """
    if not program.is_dir():
        return dict(os.environ)
    paths = [str(program.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
