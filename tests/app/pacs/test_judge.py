"""Each status has one meaning, as docs/queue.md lists them."""

from __future__ import annotations

import pytest

from app.pacs.judge import Verdict, judge, judged
from app.pacs.stow import judge_response

MEANING = {
    Verdict.DELIVERED: [0x0000, 0x0001, 0x0107, 0x0111, 0x0116, 0xB000, 0xB006, 0xB007, 0xBFFF],
    Verdict.RETRY: [0xA700, 0xA7FF, 0x0110, 0x0213],
    Verdict.FINAL: [0xA900, 0xA9FF, 0xC000, 0xCFFF, 0x0124, 0x0117, 0x0210, 0x0211, 0x0212, 0xFE00, 0xFF00, 0x1234],
    Verdict.FALL_BACK: [0x0122],
}
CASES = [(status, verdict) for verdict, statuses in MEANING.items() for status in statuses]


@pytest.mark.parametrize(("status", "verdict"), CASES, ids=lambda one: f"{one:04X}" if isinstance(one, int) else "")
def test_a_status_means_what_the_standard_and_our_uids_make_of_it(status, verdict):
    assert judge(status) is verdict


def test_what_was_delivered_has_no_reason_and_all_else_has():
    assert (judged(0xB000).status, judged(0xB000).reason) == ("0xB000", None)
    assert (judged(0xA700).status, judged(0xA700).reason) == ("0xA700", "REFUSED_BY_PEER")


STORED = {"00081199": {"Value": [{"00081155": {"Value": ["1.2"]}}]}}


def failed(reason: int | None) -> dict[str, object]:
    item: dict[str, object] = {"00081155": {"Value": ["1.2"]}}
    return {"00081198": {"Value": [item | ({"00081197": {"Value": [reason]}} if reason else {})]}}


@pytest.mark.parametrize(
    ("status", "answer", "verdict"),
    [
        (200, STORED, Verdict.DELIVERED),
        (400, STORED, Verdict.DELIVERED),  # another part was bad
        (202, STORED | failed(0xA700), Verdict.DELIVERED),
        (200, {}, Verdict.FINAL),
        (200, {"00081199": {"Value": [{"00081155": {"Value": ["1.3"]}}]}}, Verdict.FINAL),
        (409, failed(0x0122), Verdict.FALL_BACK),
        (409, failed(0xA700), Verdict.RETRY),
        (409, failed(0xA900), Verdict.FINAL),
        (409, failed(None), Verdict.FINAL),
        (400, {}, Verdict.FINAL),
        (401, {}, Verdict.RETRY),
        (429, {}, Verdict.RETRY),
        (503, {}, Verdict.RETRY),
        (200, {"00081199": "nonsense", "00081198": {"Value": ["nonsense"]}}, Verdict.FINAL),
    ],
)
def test_an_answer_to_stow_counts_for_the_instance_and_not_for_the_whole(status, answer, verdict):
    found = judge_response(status, answer, "1.2")
    assert found.verdict is verdict
    assert (found.reason is None) is (verdict is Verdict.DELIVERED)
