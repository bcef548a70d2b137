"""Run the contenders of a benchmark in turn, each in its own process, so that a disturbance affects all of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any


def race(
    commands: Mapping[str, Sequence[object]],
    runs: int,
    *,
    greeting: bool = False,
    quiet: bool = True,
    environments: Mapping[str, Mapping[str, str]] | None = None,
    may_fail: bool = False,
) -> dict[str, list[Any]]:
    """What each contender said of each run, in order.

    Args:
        commands: name → command line. For each line that the process reads it makes a run and writes a line of JSON.
        runs: how many, the ones that warm up included.
        greeting: whether each writes a line before its first run, when it is ready; it comes first in the result.
        quiet: whether what they write on stderr is thrown away.
        environments: name → variables beyond those of this process.
        may_fail: whether a contender may end early and drop out; otherwise that ends the benchmark.
    """
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    if quiet:
        pipes["stderr"] = subprocess.DEVNULL
    runners = {}
    for name, command in commands.items():
        environment = {**os.environ, **(environments or {}).get(name, {})}
        runners[name] = subprocess.Popen([str(part) for part in command], env=environment, **pipes)
    said: dict[str, list[Any]] = {name: [] for name in runners}

    def listen(name: str) -> None:
        line = runners[name].stdout.readline()
        if line:
            said[name].append(json.loads(line))
        elif not may_fail:
            raise SystemExit(f"{name} ended early; run it alone to see why")

    def run(name: str) -> None:
        if may_fail and runners[name].poll() is not None:
            return
        runners[name].stdin.write("run\n")
        runners[name].stdin.flush()
        listen(name)

    try:
        for turn in [listen] * greeting + [run] * runs:
            for name in runners:
                turn(name)
    finally:
        for runner in runners.values():
            runner.stdin.close()
            runner.wait()
    return said
