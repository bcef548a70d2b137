"""`ctvae bundle run`: the encoder alone on an array that is a window already, to compare it with other frameworks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import BundleArgument, DeviceName, DeviceOption, LogLevelOption, split_taps
from app.process import LogLevel, guarded


def command(
    path: BundleArgument,
    windows: Annotated[
        Path,
        typer.Argument(
            metavar="WINDOW.npy",
            help="Array of float32 (d, h, w), (n, 1, d, h, w) or (n, d, h, w, 1), scaled to [0, 1].",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="File for the taps: .npz, one array per tap.")],
    taps: Annotated[
        list[str] | None,
        typer.Option("--taps", "--tap", help="Layers: dense,block3:max; default: all, not pooled. May be repeated."),
    ] = None,
    device: DeviceOption = DeviceName.cpu,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Run a bundle's encoder on windows that are already scaled; nothing is resampled.

    Writes one float32 array per tap, under the name of the tap: (n, length), or (n, channels, d, h, w) for a layer that
    is not pooled.
    """

    def run() -> int:
        from app.cli.bundle import saved_arrays
        from app.open_bundle import bundle_errors, open_bundle
        from app.research.data.windows_file import pooled_taps, read_windows
        from models.runtime import open_encoder

        bundle = open_bundle(path)
        made = read_windows(windows, bundle.preprocessing.window_voxels)
        with bundle_errors():
            encoder = open_encoder(bundle, device.value)
        found = pooled_taps(bundle, encoder, made, split_taps(taps))
        saved_arrays(output, found)
        shapes = ", ".join(f"{name} {values.shape}" for name, values in found.items())
        sys.stdout.write(f"{encoder.runtime}: {shapes}\n")
        return 0

    return guarded(run, log_level)
