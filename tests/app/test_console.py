"""Progress of long work: a bar on a terminal, lines of the log elsewhere."""

from __future__ import annotations

import logging
import re
import sys

from app import console
from app.console import counted, progress


def bar_of(reports, what: str, monkeypatch, capsys) -> str:
    """What a terminal shows of reports (done, total, text), without the codes that move the cursor."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress(what) as report:
        for reported in reports:
            report(*reported)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)


def test_on_a_terminal_a_bar_shows_the_count_the_text_and_the_time_left(monkeypatch, capsys):
    reports = [(1, 4), (1, 3, "encoding series"), (2, 3, "encoding series")]
    shown = bar_of(reports, "reading headers", monkeypatch, capsys)
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


def lines_of(reports, monkeypatch, caplog) -> list[str]:
    """What is logged of reports (second, done, total, text)."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO, "app.console"), progress("reading headers") as report:
        for now[0], *what in reports:
            report(*what)
    return caplog.messages


def test_elsewhere_it_is_a_line_of_the_log_every_half_minute_with_the_time_left(monkeypatch, caplog):
    reading = [(second, second, 200) for second in (0, 20, 40, 50)]
    encoding = [(100, 0, 4, "encoding series"), (140, 1, 4, "encoding series")]
    assert lines_of(reading + encoding, monkeypatch, caplog) == [
        "reading headers: 40/200, about 3 min left",
        "encoding series: 0/4",
        "encoding series: 1/4, about 2 min left",
    ]


def test_the_time_left_of_a_resumed_training_is_that_of_what_it_did_since(monkeypatch, caplog):
    reports = [(0, 0.8, 1, "step 800"), (60, 0.81, 1, "step 810"), (120, 0.82, 1, "step 820")]
    assert lines_of(reports, monkeypatch, caplog)[-1] == "step 820: 82%, about 18 min left"


def test_without_a_known_total_the_count_alone_is_shown_and_the_next_work_begins_anew(monkeypatch, capsys, caplog):
    assert lines_of([(0, 10, 0), (40, 900, 0), (80, 1000, 0)], monkeypatch, caplog) == [
        "reading headers: 900",
        "reading headers: 1000",
    ]
    reports = [(900, 0), (1, 900, "reading results"), (3, 0, "sorting")]
    shown = bar_of(reports, "looking for results", monkeypatch, capsys)
    assert re.search(r" 3 \d:\d\d:\d\d\s+sorting", shown)


def test_counted_things_are_reported_now_and_then_and_at_the_end():
    shown = []
    counting = counted(range(250), 250, "writing", lambda done, total, text, note="": shown.append((done, total, text)))
    assert list(counting) == list(range(250))
    assert shown == [(100, 250, "writing"), (200, 250, "writing"), (250, 250, "writing")]


def test_a_silent_one_says_nothing(monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with progress("training", silent=True) as report:
        report(1, 2)
    assert capsys.readouterr().err == ""
