"""`ctvae bundle export`: encoder and decoder as ONNX files, compared with torch."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.options import BundleArgument, LogLevelOption, OutputFolderOption
from app.process import LogLevel, guarded

if TYPE_CHECKING:
    from models.spec import Bundle

logger = logging.getLogger(__name__)


def command(
    path: BundleArgument,
    output: OutputFolderOption,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Write encoder.onnx, with every tap as an output, and decoder.onnx, each compared with torch on a self-test input.

    Without torch, only encoder.onnx is copied from the bundle. Exit code 0: they agree; 1: they differ.
    """

    def run() -> int:
        from app.cli.bundle import write_whole
        from app.console import verdict_lines
        from app.open_bundle import bundle_errors, open_bundle
        from models.bundle.check import check_decoder, check_torch
        from models.runtime import OnnxEncoder

        bundle = open_bundle(path)
        with bundle_errors():
            verdicts = list(check_torch(bundle, OnnxEncoder(bundle)))
            files = {output / "encoder.onnx": bundle.onnx_path.read_bytes()}
            if importlib.util.find_spec("torch") is not None:
                decoder = _decoder(bundle)
                if decoder is not None:
                    files[output / "decoder.onnx"] = decoder
                    verdicts[-1] = check_decoder(bundle, decoder)
        _check_place(files)
        write_whole(files)
        sys.stdout.write(verdict_lines(verdicts))
        sys.stdout.write("".join(f"{file.name}: {len(content):,} bytes\n" for file, content in files.items()))
        return 1 if any(verdict.good is False for verdict in verdicts) else 0

    return guarded(run, log_level)


def _check_place(files: Mapping[Path, bytes]) -> None:
    """Check that nothing is replaced except the files to be written.

    Raises:
        StartError: `OUTPUT_IN_THE_WAY`.
    """
    from operators.errors import StartError

    for file, content in files.items():
        if file.exists() and not (file.is_file() and file.read_bytes() == content):
            text = f"{file.name} in the output folder is a different file; delete it or choose another folder"
            raise StartError("OUTPUT_IN_THE_WAY", text)


def _decoder(bundle: Bundle) -> bytes | None:
    from models.bundle.export import decoder_onnx
    from models.runtime import load_vae

    vae = load_vae(bundle)
    return None if vae.decoder is None else decoder_onnx(vae)
