"""Each error of the system is said with its own reason, and only what would help is advised."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from operators.system_error import cannot_read, system_reason


def refusal(path: Path) -> OSError:
    with pytest.raises(OSError) as caught:
        path.read_bytes()
    return caught.value


def test_a_path_that_is_missing_a_folder_or_goes_through_a_file_is_said_to_be_so(tmp_path):
    (tmp_path / "file").touch()
    assert system_reason(refusal(tmp_path / "missing")) == "No such file or directory; check the path"
    assert system_reason(refusal(tmp_path)) == "Is a directory; give a file"
    through = refusal(tmp_path / "file" / "below")
    assert system_reason(through) == "Not a directory; check the path, a part of which is a file"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "check permissions"),
        (errno.EMFILE, "raise the limit of open files (ulimit -n)"),
        (errno.ENOSPC, "free space"),
        (errno.EIO, "check disk and network"),
    ],
)
def test_what_the_system_said_comes_with_what_helps(number, advice):
    assert system_reason(OSError(number, os.strerror(number))) == f"{os.strerror(number)}; {advice}"


def test_what_the_content_should_be_is_said_only_of_content(tmp_path):
    assert "expected" not in cannot_read("the list", refusal(tmp_path / "missing"), "CSV in UTF-8")
    garbled = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    assert cannot_read("the list", garbled, "CSV") == "cannot read the list (UnicodeDecodeError); expected CSV"
