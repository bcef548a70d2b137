"""The conformance statement says what the code does."""

from __future__ import annotations

import re

from app.pacs.intake import NOT_UNDERSTOOD, OUT_OF_RESOURCES, SUCCESS, SYNTAXES, WRONG_CLASS
from app.pacs.judge import Verdict, judge
from app.pacs.receive import accepted_contexts
from app.pacs.settings import Limits, ListenerSettings
from app.pacs.store import SR_CLASSES
from tests.support.checkout import ROOT

PAGE = (ROOT / "docs" / "dicom-conformance.md").read_text(encoding="utf-8")
UID = re.compile(r"1\.2\.840\.10008(?:\.\d+)+")


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_every_accepted_class_and_syntax_is_listed_and_no_other():
    listed = set(UID.findall(section("As a provider")))
    contexts = accepted_contexts()
    assert listed == {str(one.abstract_syntax) for one in contexts} | set(SYNTAXES)


def test_the_classes_that_are_sent_are_listed():
    assert set(UID.findall(section("Objects that are made"))) == set(SR_CLASSES)


def test_every_status_that_is_returned_is_listed():
    for status in (SUCCESS, OUT_OF_RESOURCES, WRONG_CLASS, NOT_UNDERSTOOD):
        assert f"| {status:04X} |" in section("As a provider")


def test_the_reactions_are_those_of_the_code():
    reactions = dict(
        re.findall(r"^\| (.+?) \| (takes it|sends again|sends Compr|gives up)", section("As a user"), re.M)
    )
    expected = {
        "takes it": Verdict.DELIVERED,
        "sends again": Verdict.RETRY,
        "sends Compr": Verdict.FALL_BACK,
        "gives up": Verdict.FINAL,
    }
    assert set(reactions.values()) == set(expected)
    for statuses, reaction in reactions.items():
        for status in re.findall(r"\b[0-9A-F][0-9A-F]{3}\b|\b[ABC][0-9x]{3}\b", statuses):
            for digit in "05":
                assert judge(int(status.replace("x", digit), 16)) is expected[reaction], status


def test_the_defaults_are_those_of_the_settings():
    settings = ListenerSettings()
    assert f"`{settings.ae_title}`" in PAGE and f"**Port**: {settings.port}" in PAGE
    assert str(Limits().max_pdu_bytes) in PAGE
