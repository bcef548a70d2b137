"""`ctvae demo`: the main job, through the graph, and what came out of it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.options import LogLevelOption
from app.exit_codes import COULD_NOT_START
from app.process import LogLevel, guarded, starting

REAL_CT = Path(__file__).resolve().parents[3] / "shared" / "ct" / "crlm_1004"
SHOWN_DIMENSIONS = 6


def command(
    folder: Annotated[
        Path | None, typer.Argument(metavar="IN", help="Your own folder of CT; default: a phantom.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for everything the demo writes.")] = Path(
        "demo"
    ),
    log_level: LogLevelOption = LogLevel.INFO,
) -> int:
    """Encode a phantom (and real CT where ../shared/ct exists), or your own folder, and show the results."""

    def run() -> int:
        codes = [_show_run(title, source, target) for title, source, target in _runs(folder, output)]
        return max(codes)

    return guarded(run, log_level)


def _runs(folder: Path | None, output: Path) -> list[tuple[str, Path, Path]]:
    if folder is not None:
        return [("your folder", folder, output / "results")]
    phantom = output / "phantom"
    runs = [("a phantom of a chest, made here", _write_phantom(phantom / "ct"), phantom / "results")]
    if REAL_CT.is_dir():
        runs.append(("real CT: upper abdomen, crlm_1004", REAL_CT, output / "crlm_1004" / "results"))
    return runs


def _write_phantom(folder: Path) -> Path:
    """Write a small chest CT of 40 slices at 5 mm, 256 × 256 at 1.5 mm, as CT Image Storage."""
    from models.phantom import PhantomFactors, make_phantom
    from operators.synthetic.write_ct import affine_for, write_ct_series

    shape, spacing_mm = (40, 256, 256), (5.0, 1.5, 1.5)
    if not folder.exists():
        hu = make_phantom(PhantomFactors(), shape=shape, spacing_mm=spacing_mm, seed=1)
        with starting():
            write_ct_series(hu, affine_for(shape, spacing_mm), folder)
    return folder


def _show_run(title: str, source: Path, target: Path) -> int:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.rule(title)
    code = _encode(console, source, target)
    ledger = target / "outcome.json"
    if code != COULD_NOT_START and ledger.is_file():
        _show_results(console, target, json.loads(ledger.read_text(encoding="utf-8"))["series"])
    console.print(f"exit code {code}")
    return code


def _encode(console: Any, source: Path, target: Path) -> int:
    """Encode through the graph or, without its extra, in the plain loop, which gives the same files."""
    arguments = ["-o", str(target), *_card_settings(target.parent)]
    if find_spec("holoscan") is None:
        from app.cli import main as ctvae

        console.print(f"$ ctvae encode {source} {' '.join(arguments)}")
        return ctvae(["encode", str(source), *arguments, "-l", "INFO"])
    from app.__main__ import main

    console.print(f"$ python -m app -i {source} {' '.join(arguments)}")
    return main(["-i", str(source), *arguments])


def _card_settings(folder: Path) -> list[str]:
    """Write settings that request the card, and return the arguments for them; empty if no card can be drawn."""
    if find_spec("matplotlib") is None:
        return []
    file = folder / "demo.yaml"
    with starting():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text("card: [png]\n", encoding="utf-8")
    return ["-c", str(file)]


def _show_results(console: Any, target: Path, series: list[dict[str, Any]]) -> None:
    for line in series:
        part = "" if line["part"] is None else f".part{line['part']}"
        seconds = ", ".join(f"{stage} {value:.2f} s" for stage, value in line["seconds"].items())
        console.print(f"\n[bold]{line['status']}[/] series {line['series_instance_uid']}{part}")
        if line["status"] != "written":
            console.print(f"  {line['reason']}: {line['message']}")
            continue
        console.print(f"  {' × '.join(map(str, line['shape']))} voxels; {seconds}")
        folder = target / f"{line['series_instance_uid']}{part}"
        features = json.loads((folder / "features.json").read_text(encoding="utf-8"))
        console.print(_table(features["taps"]))
        _show_report(console, folder)
    console.print(f"\nwhat happened to each series: {target / 'outcome.json'}")


def _table(taps: dict[str, Any]) -> Any:
    from rich.table import Table

    windows, length = len(taps["mu"]["windows"]), taps["mu"]["length"]
    shown = range(min(SHOWN_DIMENSIONS, length))
    table = Table(
        "tap", *map(str, shown), title=f"features: {length} dimensions, {windows} windows", title_justify="left"
    )
    for name, tap in taps.items():
        table.add_row(name, *(f"{tap['values'][dimension]:+.3f}" for dimension in shown))
    return table


def _show_report(console: Any, folder: Path) -> None:
    from pydicom import dcmread
    from rich.markup import escape

    from operators.results.card_kinds import CARD_FILES
    from operators.sr.text import sr_text

    report = folder / "features.sr.dcm"
    if report.is_file():
        console.print("[bold]the Structured Report[/]")
        console.print(escape(sr_text(dcmread(report))))
    else:
        console.print("no Structured Report: the scan is not DICOM")
    files = [folder / name for name in ("features.json", report.name, CARD_FILES["png"])]
    console.print("\n  ".join(["[bold]files[/]", *(str(file) for file in files if file.is_file())]))
