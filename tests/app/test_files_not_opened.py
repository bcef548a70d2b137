"""Files that a user names: where the system does not open one, the line says why, and nothing else."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.cohort.source import open_source
from app.explain.data.feature_table import read_features
from app.explain.data.join_labels import read_label_file
from app.pacs.credentials import read_token, usable
from app.pacs.settings import Tls
from app.process import LogLevel, guarded, starting
from app.research.data.csv_rows import csv_rows
from app.research.data.windows_file import read_windows
from app.research.train.recipe import load_recipe
from app.settings import load_settings
from models.importers.keras.file import read_keras_file
from models.importers.torch_checkpoint import import_checkpoint, read_parameters


def set_up_tls(file: Path) -> None:
    with usable("listener.tls", Tls(certificate=str(file), key=str(file))):
        pass


READERS: dict[str, Callable[[Path], Any]] = {
    "settings": load_settings,
    "labels": read_label_file,
    "list": lambda file: csv_rows(file, "BAD_LIST"),
    "recipe": load_recipe,
    "window": lambda file: read_windows(file, (8, 16, 16)),
    "table": read_features,
    "token": lambda file: read_token(str(file), "token_file"),
    "TLS": set_up_tls,
    "parameters": lambda file: read_parameters(file, "autoencoder_kl"),
    "checkpoint": lambda file: import_checkpoint(file, "autoencoder_kl", {}),
}
NAMED_OTHERWISE = {"DICOMDIR": lambda file: open_source(file, file.parent / "out"), "Keras": read_keras_file}
"""Readers that have more to say about a file that is missing or a folder."""


def line_of(capsys: pytest.CaptureFixture[str], read: Callable[[Path], Any], file: Path) -> str:
    def run() -> int:
        with starting():
            read(file)
        return 0

    assert guarded(run, LogLevel.INFO) == 3
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_missing_file_and_a_folder_are_said_to_be_so(capsys, tmp_path, read):
    missing = line_of(capsys, read, tmp_path / "nowhere")
    assert "No such file or directory" in missing and missing.endswith("; check the path")
    folder = line_of(capsys, read, tmp_path)
    assert "Is a directory" in folder and folder.endswith("; give a file")


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EACCES, "check permissions"), (errno.EMFILE, "raise the limit of open files (ulimit -n)")],
)
@pytest.mark.parametrize("read", [*READERS.values(), *NAMED_OTHERWISE.values()], ids=[*READERS, *NAMED_OTHERWISE])
def test_neither_a_closed_file_nor_a_reached_limit_is_called_damage(
    capsys, tmp_path, monkeypatch, read, number, advice
):
    file = tmp_path / "file"
    file.write_bytes(b"content")
    system_open = io.open

    def refuse(path: Any, *given: Any, **named: Any) -> Any:
        if path == file or path == os.fspath(file):
            raise OSError(number, os.strerror(number), path)
        return system_open(path, *given, **named)

    monkeypatch.setattr(io, "open", refuse)
    monkeypatch.setattr(builtins, "open", refuse)
    line = line_of(capsys, read, file)
    assert os.strerror(number) in line and line.endswith(f"; {advice}")


def test_an_error_of_the_system_during_a_run_is_not_called_an_error_of_ctvae(capsys):
    def run() -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/secret")

    assert guarded(run, LogLevel.INFO) == 1
    told = capsys.readouterr().err
    assert "INPUT_OUTPUT_ERROR: the system reported: Input/output error; check disk and network" in told
    assert "secret" not in told
