"""`ctvae doctor`: whether the machine has what encoding needs, and reproduces the bundle's numbers."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.options import DeviceName, DeviceOption, JsonOption, LogLevelOption, ModelOption
from app.cli.print_json import print_json
from app.process import LogLevel, guarded

if TYPE_CHECKING:
    from models.bundle.check import Verdict
    from models.runtime import Encoder
    from models.spec import Bundle

PACKAGES = ("numpy", "onnxruntime", "pydicom", "highdicom", "imagecodecs", "safetensors", "torch", "monai")
NEEDED = ("numpy", "onnxruntime", "pydicom", "highdicom", "imagecodecs", "safetensors")
RUNS = 5
_KIB = 1024  # Linux counts memory in it


def command(
    models: ModelOption = None,
    device: DeviceOption = DeviceName.auto,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.ERROR,
) -> int:
    """Check the installation and reproduce the bundle's golden values. Writes nothing.

    Exit code 0: all is well; 1: something is wrong; 3: could not start.
    """

    def run() -> int:
        from app.console import verdict_lines

        verdicts = list(examine(models, device.value))
        if as_json:
            print_json({"verdicts": [asdict(verdict) for verdict in verdicts]})
        else:
            sys.stdout.write(verdict_lines(verdicts))
        return 1 if any(verdict.good is False for verdict in verdicts) else 0

    return guarded(run, log_level)


def examine(models: Path | None, device: str) -> Iterator[Verdict]:
    """Yield every verdict: on the machine, on the bundle, and on both together."""
    from models.bundle.check import Verdict, check_golden, check_golden_decoder, check_torch
    from models.bundle.store import find_bundle, load_bundle
    from models.runtime import open_encoder
    from models.spec import BundleError

    yield from _machine()
    try:
        bundle = load_bundle(find_bundle(models))
        yield Verdict("bundle", True, f"{bundle.name} {bundle.version}: digests fit, no NaN, no infinity")
        encoder = open_encoder(bundle, "cpu" if device == "cpu" else "cuda" if device == "cuda" else "auto")
        yield Verdict("runtime", encoder.fallback is None or device != "cuda", encoder.fallback or encoder.runtime)
        golden = check_golden(bundle, encoder)
        yield golden
        yield check_golden_decoder(bundle)
        if golden.good is None:
            yield from (verdict for verdict in check_torch(bundle, encoder) if verdict.question == "torch")
        yield _speed(bundle, encoder)
    except BundleError as error:
        yield Verdict("bundle", False, str(error))


def _machine() -> Iterator[Verdict]:
    from models.bundle.check import Verdict
    from models.runtime import cuda_devices
    from operators import __version__

    yield Verdict("ctvae", True, f"{__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}")
    versions = {package: _version(package) for package in PACKAGES}
    missing = [package for package in NEEDED if versions[package] is None]
    found = ", ".join(f"{package} {version or 'not there'}" for package, version in versions.items())
    yield Verdict("packages", not missing, f"missing {', '.join(missing)}; {found}" if missing else found)
    yield Verdict("CPU", True, f"{_processor()}, {len(os.sched_getaffinity(0))} cores for this process")
    total, free = _memory_gb()
    yield Verdict("memory", None if free is None else True, f"{_gb(total)} in all, {_gb(free)} free")
    gpus = cuda_devices()
    yield Verdict("GPU", None if gpus == 0 else True, f"{gpus} found" if gpus else "none found; the CPU is used")


def _speed(bundle: Bundle, encoder: Encoder) -> Verdict:
    """Return the median time of a window after a warm-up, and this process's peak memory."""
    import resource

    from models.bundle.check import Verdict
    from models.bundle.golden import golden_input

    windows = golden_input(bundle.preprocessing.window_voxels)
    seconds = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        encoder.run(windows, ("mu", "sigma"))
        seconds.append(time.perf_counter() - started)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB / 1e6
    median_ms = 1000 * statistics.median(seconds[1:])
    text = f"{median_ms:.1f} ms a window (median of {RUNS}), {peak_mb:.0f} MB at most in this process"
    return Verdict("speed", True, f"{text}, {encoder.runtime}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Return the CPU's name, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _memory_gb() -> tuple[float | None, float | None]:
    """Return memory in GB (total, free for new processes), according to Linux."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None, None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest.split()}
    total, free = kib.get("MemTotal"), kib.get("MemAvailable")
    return (None if total is None else total * _KIB / 1e9), (None if free is None else free * _KIB / 1e9)


def _gb(value: float | None) -> str:
    return "an unknown amount" if value is None else f"{value:.1f} GB"
