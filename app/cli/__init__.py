"""The `ctvae` command: one module a subcommand, imported only when it is called."""

from __future__ import annotations

import sys
from importlib import import_module

from app.usage import COULD_NOT_START, tolerate_any_text

COMMANDS = {
    "encode": "A folder of CT → features.json and features.sr.dcm for each series.",
    "inspect": "What is in a folder: series, geometry, verdict and reason. Writes nothing.",
    "export": "Each CT volume that is read, and the windows that the encoder sees, as NIfTI to look at.",
    "demo": "The main job on a phantom, on real CT where there is some, or on your own folder, and what comes out.",
    "train": "A folder or a list of CT → a bundle: a VAE trained on your own scans, with its model card.",
    "bundle": "Look into a bundle, check, certify, export or run it; make one of a Keras or MONAI checkpoint.",
    "doctor": "Is everything here that encoding needs, and does this machine reproduce the bundle's numbers?",
    "schema": "Print the JSON Schema of features.json.",
}


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: arguments without the program's name; None for those of the process.

    Returns:
        The exit code of the contract (3 for a wrong call).
    """
    tolerate_any_text()
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] == "bundle":
        from app.cli import bundle

        return bundle.main(arguments[1:])
    if arguments and arguments[0] in COMMANDS:
        return run_command(arguments[0], f"app.cli.{arguments[0]}", arguments[1:])
    if arguments and arguments[0] == "--version":
        from operators import __version__

        sys.stdout.write(f"ctvae {__version__}\n")
        return 0
    asked = bool(arguments) and arguments[0] in ("-h", "--help")
    if arguments and not asked:
        sys.stderr.write(f"USAGE: no command {arguments[0]!r}; expected one of {', '.join(COMMANDS)}\n")
        return COULD_NOT_START
    (sys.stdout if asked else sys.stderr).write(_overview())
    return 0 if asked else COULD_NOT_START


def run_command(name: str, module: str, arguments: list[str]) -> int:
    """Run the `command` of a module, imported only now, with these arguments; the exit code of the contract."""
    import typer
    from typer._click.exceptions import ClickException  # not exported; typer is pinned

    command = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    command.command(name)(import_module(module).command)
    try:
        return int(typer.main.get_command(command)(arguments, prog_name=f"ctvae {name}", standalone_mode=False) or 0)
    except ClickException as error:
        sys.stderr.write(f"USAGE: {error.format_message()} See ctvae {name} --help\n")
        return COULD_NOT_START
    except typer.Abort:
        return 1


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: ctvae COMMAND …",
            "",
            "A CT study goes in, reproducible VAE features come out, as DICOM SR and JSON. Not for diagnosis.",
            "",
            *lines,
            "",
            "ctvae COMMAND --help says more.",
            "Exit code: 0 written, 1 something failed, 2 nothing to write, 3 could not start.",
            "",
        ]
    )
