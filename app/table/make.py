"""From results to one table: what `ctvae table` does."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from app.on_disk import DiskMap, short
from app.table.columns import LONG, Layout
from app.table.input_folder import input_folder
from app.table.result import Cell, Result
from app.table.sources import Found, Passed, find_results, read_results, survey
from app.table.write import BATCH_VALUES, check_name, open_table
from operators import __version__
from operators.errors import StartError
from operators.results.write_json import NOTICE

if TYPE_CHECKING:
    from app.console import Report

logger = logging.getLogger(__name__)

_NAMED = 3


@dataclass(frozen=True, slots=True)
class TableSettings:
    """What the table holds.

    Attributes:
        taps: further layers to write, beside mu and sigma.
        long: whether to write one row per tap and dimension rather than one per series.
        with_paths: whether to write where in its input each series lay.
        mixed: whether to allow results of several models, and several results of one series.
    """

    taps: tuple[str, ...] = ()
    long: bool = False
    with_paths: bool = False
    mixed: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """What happened to the results that were found."""

    rows: int
    columns: int
    passed: Passed


def make_table(places: Sequence[Path], output: Path, settings: TableSettings, report: Report) -> Made:
    """Write one table of all results below the places.

    Args:
        places: files (`features.json`, SR) and folders of them, at any depth.
        output: `.parquet` or `.csv`; replaced where it exists.
        settings: what it holds.
        report: called with the number of results so far and, once they are counted, of all.

    Raises:
        StartError: `BAD_TABLE_NAME`, `NO_RESULTS_THERE`, `NO_RESULTS`, `MIXED_MODELS`, `SEVERAL_RESULTS` or
            `NO_SUCH_TAP`.
        CtvaeError: a file that was named is no result.
    """
    check_name(output)
    found, replaced = survey(find_results(places), lambda done: report(done, 0, "looking for results"))
    done, passed = count(1), Passed()
    results = read_results(find_results(places), replaced, passed, lambda: report(next(done), found, "reading results"))
    checked = _checked(results, settings, passed)
    first = next(checked, None)
    if first is None:
        raise StartError("NO_RESULTS", _nothing(found, passed))
    layout = Layout({tap: len(first[1].taps[tap]) for tap in ("mu", "sigma", *settings.taps)}, settings.with_paths)
    columns = LONG if settings.long else layout.columns()
    about = {"ctvae_version": __version__, "notice": NOTICE, "model_digest": first[1].model_digest}
    if settings.mixed:
        del about["model_digest"]
    rows = 0
    with open_table(output, columns, about, BATCH_VALUES // len(columns)) as append:
        for row in _rows(chain([first], checked), layout, settings):
            append(row)
            rows += 1
    return Made(rows, len(columns), passed)


def _rows(
    results: Iterable[tuple[Found, Result]], layout: Layout, settings: TableSettings
) -> Iterator[dict[str, Cell]]:
    ledgers: dict[Path, DiskMap[str]] = {}
    for file, result in results:
        _check_layout(file, result, layout)
        if settings.long:
            yield from layout.long(result)
        else:
            yield layout.wide(result, input_folder(file, result, ledgers) if settings.with_paths else None)


def _checked(
    results: Iterable[tuple[Found, Result]], settings: TableSettings, passed: Passed
) -> Iterator[tuple[Found, Result]]:
    """Yield each result once; of one model, and one for each series, unless mixtures are asked for."""
    model: str | None = None
    seen: DiskMap[bytes] = DiskMap()
    for file, result in results:
        key = short(f"{result.series_instance_uid} {result.part} {result.job_key if settings.mixed else ''}")
        job = short(result.job_key)
        if (known := seen.enter(key, job)) is not None:
            if known != job:
                raise StartError("SEVERAL_RESULTS", _several(file, result))
            passed.repeated += 1
            continue
        model = model or result.model_digest
        if result.model_digest != model and not settings.mixed:
            raise StartError("MIXED_MODELS", _mixed(file, model, result.model_digest))
        missing = [tap for tap in settings.taps if tap not in result.taps]
        if missing:
            listed = ", ".join(sorted(result.taps))
            raise StartError("NO_SUCH_TAP", f"{file.name} lists {listed}, not {missing[0]}; encode with --taps first")
        yield file, result


def _check_layout(file: Found, result: Result, layout: Layout) -> None:
    for tap, length in layout.lengths.items():
        if len(result.taps[tap]) != length:
            found = f"{tap} of {file.name} has {len(result.taps[tap])} dimensions, the table's first result {length}"
            raise StartError("MIXED_MODELS", f"{found}; make one table for each model")


def _mixed(file: Found, model: str, other: str) -> str:
    text = f"{file.name} is of the model {other[:12]}…, those before it of {model[:12]}…"
    return f"{text}; numbers of two models cannot be compared: make one table for each, or give --mixed"


def _several(file: Found, result: Result) -> str:
    part = "" if result.part is None else f" part {result.part}"
    text = f"{file.name} is a second, different result of series {result.series_instance_uid}{part}"
    return f"{text} (other settings or other slices); leave one out, or give --mixed"


def _nothing(files: int, passed: Passed) -> str:
    if passed.broken:
        return f"none of {files} files is a result that can be read; {len(passed.broken)} are damaged; encode again"
    return f"none of {files} files is a features.json or an SR of ctvae; give an output folder of `ctvae encode`"
