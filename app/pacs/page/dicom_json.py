"""The answer to STOW-RS as DICOM JSON (PS3.18 10.5.3, F.2)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

_SOP_CLASS, _SOP_INSTANCE, _REASON = "00081150", "00081155", "00081197"
_STORED, _FAILED, _OTHER_FAILURES = "00081199", "00081198", "0008119A"
UI: Final = "UI"


def answer_json(
    stored: Sequence[tuple[str, str]], failed: Sequence[tuple[str, str, int]], unnamed: Sequence[int]
) -> bytes:
    """Return the data set.

    Args:
        stored: (SOP class, SOP instance) of what is on the disk.
        failed: (SOP class, SOP instance, failure reason) of what is not.
        unnamed: failure reasons of what has no name (Other Failures Sequence).
    """
    sequences = {
        _STORED: [_reference(*one) for one in stored],
        _FAILED: [{**_reference(sop_class, uid), **_reason(why)} for sop_class, uid, why in failed],
        _OTHER_FAILURES: [_reason(why) for why in unnamed],
    }
    return json.dumps({tag: {"vr": "SQ", "Value": items} for tag, items in sorted(sequences.items()) if items}).encode()


def _reference(sop_class: str, uid: str) -> dict[str, Any]:
    return {_SOP_CLASS: {"vr": UI, "Value": [sop_class]}, _SOP_INSTANCE: {"vr": UI, "Value": [uid]}}


def _reason(status: int) -> dict[str, Any]:
    return {_REASON: {"vr": "US", "Value": [status]}}
