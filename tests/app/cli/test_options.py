"""Options that mean the same have the same name in all commands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.cli import ABOUT, COMMANDS
from app.cli.lazy import LazyGroup


def commands(group: Any, path: str = "ctvae") -> Iterator[tuple[str, Any]]:
    """Yield each command with its path."""
    for name in group.list_commands(None):
        found = group.get_command(None, name)
        if isinstance(found, LazyGroup):
            yield from commands(found, f"{path} {name}")
        else:
            yield f"{path} {name}", found


ALL = dict(commands(LazyGroup("ctvae", "app.cli", COMMANDS, help=ABOUT)))


def test_a_letter_stands_for_one_option_and_an_option_has_one_letter():
    pairs = {
        (short, long)
        for command in ALL.values()
        for parameter in command.params
        for short in parameter.opts
        for long in [name for name in parameter.opts if name.startswith("--")][:1]  # what follows is a former name
        if not short.startswith("--")
    }
    assert len(ALL) > 25 and len(pairs) == len(dict(pairs)) == len({long for _, long in pairs}), sorted(pairs)
    lettered = {long for _, long in pairs}
    bare = [
        (path, option)
        for path, command in ALL.items()
        for parameter in command.params
        for option in parameter.opts
        if option in lettered and len(parameter.opts) < 2
    ]
    assert bare == []


def test_each_argument_and_option_says_what_it_is_for():
    silent = [
        (path, parameter.name)
        for path, command in ALL.items()
        for parameter in command.params
        if parameter.name != "help" and not getattr(parameter, "help", None)
    ]
    assert silent == []
