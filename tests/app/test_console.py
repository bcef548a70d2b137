"""Progress of long work: a bar on a terminal, lines of the log elsewhere."""

from __future__ import annotations

import logging
import re
import sys

from app import console
from app.console import progress


def test_on_a_terminal_a_bar_shows_the_count_the_text_and_the_time_left(monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress("reading headers") as report:
        report(1, 4)
        report(1, 3, "encoding series")
        report(2, 3, "encoding series")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert re.search(r"2/3 \d:\d\d:\d\d (-:--:--|\d:\d\d:\d\d) encoding series", shown)


def test_lines_of_the_log_go_above_the_bar(monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    handler = logging.StreamHandler(sys.stderr)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    with progress("reading") as report:
        report(1, 2)
        assert type(handler.stream).__name__ == "FileProxy"
        logging.getLogger("app").warning("a finding")
    assert handler.stream is sys.stderr
    assert "a finding\n" in capsys.readouterr().err


def test_elsewhere_it_is_a_line_of_the_log_every_half_minute_with_the_time_left(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO, "app.console"), progress("reading headers") as report:
        for now[0] in (10.0, 20.0, 40.0, 50.0):
            report(now[0], 200)
        now[0] = 100.0
        report(0.25, 1, "training, loss 0.3")
    assert caplog.messages == [
        "reading headers: 40/200, about 3 min left",
        "training, loss 0.3: 25%, about 5 min left",
    ]


def test_a_silent_one_says_nothing(monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with progress("training", silent=True) as report:
        report(1, 2)
    assert capsys.readouterr().err == ""
