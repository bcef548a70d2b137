"""Patterns of users: the usual ones are found, and none runs without end."""

from __future__ import annotations

import time

import pytest

from operators.series.text_pattern import check_pattern, matches

REFUSED = (
    *("(a+)+b", "(a|ab)*c", "((a*)b)*", "(a?){9}", "(?:x.*){2,}", r"(a)\1", "(?P<x>a)(?P=x)", "(?x)a", "(", ""),
    *("a" * 201, ".*a.*b.*c.*d.*", "(?:a|a)" * 5, "a?" * 5, "[[a]"),
)


@pytest.mark.parametrize("pattern", REFUSED, ids=range(len(REFUSED)))
def test_a_pattern_that_could_run_without_end_is_refused(pattern):
    with pytest.raises(ValueError, match="pattern"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("lung|thorax", "CT THORAX"),
        ("(?i)^No series description|(.*?)", "anything"),
        (r"^(?!.*(scout|topo)).*\bthin\b", "lung thin"),
        (r"\(a+\)+", "(aa))"),
        ("[*+?]{2}", "a*+"),
        (r"^\d{1,2}(\.\d)? ?mm$", "1.5 mm"),
        ("(thin.*)?lung", "lung"),
    ],
)
def test_usual_patterns_are_found_in_either_case(pattern, text):
    check_pattern(pattern)
    assert matches(pattern, text) and matches(pattern, text.swapcase())


def test_the_worst_pattern_that_is_allowed_ends_soon():
    pattern = "a*a*a*a*b"
    check_pattern(pattern)
    started = time.process_time()
    assert not matches(pattern, "a" * 100_000)
    assert time.process_time() - started < 10
