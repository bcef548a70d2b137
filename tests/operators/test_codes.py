"""Reason and finding codes are one documented list, and the program raises no others."""

from __future__ import annotations

import ast
from pathlib import Path

from operators.codes import Code, RunCode
from tests.support.checkout import ROOT

PAGE = ROOT / "docs" / "codes.md"
SOURCES = [path for layer in ("app", "operators") for path in (ROOT / layer).rglob("*.py") if path.name != "codes.py"]
OF_SERIES = {"SeriesRejected", "SeriesSkipped", "SeriesFailed", "Finding"}
OF_RUNS = {"StartError", "RunFailed"}


def raised(source: Path, made: set[str]) -> set[str]:
    """Codes that stand in a call that makes one of these errors or findings."""
    calls = (node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call) and node.args)
    names = [(ast.unparse(call.func), call.args[0]) for call in calls]
    return {str(code.value) for name, code in names if name in made and isinstance(code, ast.Constant)}


def table() -> list[str]:
    return [f"| `{code}` | {code.effect} | {code.line} |" for code in (*Code, *RunCode)]


def test_every_code_that_a_series_can_end_with_is_documented():
    assert {code for source in SOURCES for code in raised(source, OF_SERIES)} - set(Code) == set()


def test_every_code_that_a_run_can_end_with_is_documented():
    assert {code for source in SOURCES for code in raised(source, OF_RUNS)} - set(RunCode) == set()


def test_every_documented_code_is_one_of_the_program():
    text = "\n".join(source.read_text() for source in (*SOURCES, ROOT / "models" / "spec.py"))
    assert [code for code in (*Code, *RunCode) if f'"{code}"' not in text] == []


def test_a_member_is_its_name_as_text_and_has_its_line():
    assert all(code == code.name and code.line.endswith(".") for code in (*Code, *RunCode))
    assert {code.effect for code in Code} == {"rejected", "skipped", "failed", "finding"}
    assert {code.effect for code in RunCode} == {"exit 3", "exit 1"}


def test_the_page_is_the_list():
    assert [line for line in PAGE.read_text().splitlines() if line.startswith("| `")] == table()
