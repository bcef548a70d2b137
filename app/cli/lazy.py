"""A Typer group whose commands are imported only when they are called."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from app.exit_codes import COULD_NOT_START, FAILED
from app.process import tolerate_any_text

HELP = ["-h", "--help"]
CONTEXT = {"help_option_names": HELP, "max_content_width": 100}


class LazyGroup(TyperGroup):
    """Commands by name: `package.<name>` holds a function `command`, or a LazyGroup `group`.

    Attributes:
        package: holds one module per command, named like the command with underscores for hyphens.
        summaries: one line for each command, shown without importing it.
    """

    def __init__(self, name: str, package: str, summaries: Mapping[str, str], **about: Any) -> None:
        super().__init__(
            name=name,
            rich_markup_mode=None,
            options_metavar=None,
            subcommand_metavar="COMMAND …",
            add_help_option=False,  # Typer's own loads pydantic, which takes longer than the rest of the help
            context_settings=CONTEXT,
            **about,
        )
        self.package, self.summaries = package, summaries

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order in which the help shows them."""
        return list(self.summaries)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and return a command."""
        if cmd_name not in self.summaries:
            ctx.fail(f"no command {cmd_name!r}; expected one of {', '.join(self.summaries)}")
        module = import_module(f"{self.package}.{cmd_name.replace('-', '_')}")
        group = getattr(module, "group", None)
        if group is not None:
            return group
        single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        single.command(cmd_name, context_settings=CONTEXT)(module.command)
        return get_command(single)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands into the help."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries.items()))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments before the command, where --help is; without arguments the call is wrong (code 3)."""
        if args and args[0] in HELP:
            sys.stdout.write(ctx.get_help() + "\n")
            raise typer.Exit(0)
        if not args:
            sys.stderr.write(ctx.get_help() + "\n")
            raise typer.Exit(COULD_NOT_START)
        return super().parse_args(ctx, args)

    def run(self, arguments: list[str]) -> int:
        """Run one command.

        Args:
            arguments: the arguments after the group's name.

        Returns:
            The command's exit code; 3 for a wrong call, which is reported in one line.
        """
        tolerate_any_text()
        try:
            return int(self.main(arguments, prog_name=self.name, standalone_mode=False) or 0)
        except typer.TyperException as error:
            context = getattr(error, "ctx", None)
            called = context.command_path if context else self.name
            sys.stderr.write(f"USAGE: {error.format_message().rstrip('.')}; see {called} --help\n")
            return COULD_NOT_START
        except typer.Abort:
            return FAILED
