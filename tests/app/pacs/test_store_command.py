"""C-STORE as bytes: the same that pynetdicom reads and writes, for what is read here at all."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom.dimse_messages import C_STORE_RQ, C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import create_file_meta

from app.pacs.store_command import StoreAnswer, StoreRequest, file_head, read_store_request, store_response
from tests.support.listeners import store_command

UID = "1.2.840.99.1"
REQUEST = StoreRequest(258, str(CTImageStorage), UID)


def encoded(kind, **values):
    """The command set that pynetdicom makes of a primitive."""
    primitive = C_STORE()
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = CTImageStorage, UID
    for name, value in values.items():
        setattr(primitive, name, value)
    message = kind()
    message.primitive_to_message(primitive)
    (fragment,) = (part for pdata in message.encode_msg(5, 16382) for part in pdata.presentation_data_value_list)
    return fragment[1][1:]


def command(**values):
    return encoded(C_STORE_RQ, **{"MessageID": 258, "Priority": 2, **values})


def elements(*changed, without=()):
    """A request with other elements, well formed but for them."""
    usual = {
        0x0002: CTImageStorage.encode() + b"\0",
        0x0100: b"\1\0",
        0x0110: b"\1\0",
        0x0800: b"\0\0",
        0x1000: UID.encode(),
    }
    values = [(number, value) for number, value in (usual | dict(changed)).items() if number not in without]
    body = b"".join(struct.pack("<HHI", 0, number, len(value)) + value for number, value in sorted(values))
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


@pytest.mark.parametrize(
    ("sent", "originator"),
    [({}, ""), ({"MoveOriginatorApplicationEntityTitle": "CTVAE ", "MoveOriginatorMessageID": 4}, "CTVAE")],
)
def test_a_request_that_pynetdicom_writes_is_read(sent, originator):
    whole = command(**sent).replace(b"\0\0\0\x08\2\0\0\0\1\1", b"\0\0\0\x08\2\0\0\0\1\0")  # a data set follows
    assert read_store_request(whole) == StoreRequest(258, str(CTImageStorage), UID, originator)


def test_what_a_test_writes_by_hand_is_a_request():
    assert read_store_request(elements()) == StoreRequest(1, str(CTImageStorage), UID)
    assert read_store_request(store_command("1.2.3")[12:]) == StoreRequest(1, str(CTImageStorage), "1.2.3")


OTHERS = {
    "empty": b"",
    "garbage": bytes(range(256)),
    "cut off": elements()[:-1],
    "too long": elements() + b"\0",
    "another command": elements((0x0100, b"\x30\0")),
    "no data set": elements((0x0800, b"\1\1")),
    "no instance": elements(without=[0x1000]),
    "a UID that leads out": elements((0x1000, b"../../x\0")),
    "two UIDs": elements((0x1000, b"1.2\\1.3\0")),
    "not ASCII": elements((0x1000, b"1.2.\xff\0")),
    "an element that is not known": elements((0x1008, b"\0\0")),
    "a number of four bytes": elements((0x0110, b"\1\0\0\0")),
    "a length of 4 GB": elements()[:16] + b"\xff\xff\xff\xff" + elements()[20:],
    "another group": elements()[:12] + b"\2" + elements()[13:],
    "not in order": struct.pack("<HHII", 0, 0, 4, 20) + elements()[-20:-10] * 2,
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_is_no_usual_request_is_left_to_pynetdicom(other):
    assert read_store_request(other) is None


@pytest.mark.parametrize(
    "answer", [StoreAnswer(0), StoreAnswer(0xA700, "the disk is full"), StoreAnswer(0xC000, "odd")]
)
def test_a_response_has_the_bytes_that_pynetdicom_writes(answer):
    told = {"MessageIDBeingRespondedTo": 258, "Status": answer.status}
    expected = encoded(C_STORE_RSP, **told, **({"ErrorComment": answer.comment} if answer.comment else {}))
    pdu = store_response(REQUEST, answer, 5)
    assert pdu[:12] == struct.pack(">BBIIBB", 4, 0, len(pdu) - 6, len(pdu) - 10, 5, 3)
    assert pdu[12:] == expected


def test_a_comment_is_cut_to_what_its_representation_allows():
    assert StoreAnswer(0xC000, "x" * 100).comment == "x" * 64


@pytest.mark.parametrize("uid", ["1.2.3", "1.2.34"])
def test_the_head_of_a_file_is_the_one_that_pynetdicom_writes(uid):
    """Equal bytes have equal digests: what came by a C-GET, through pynetdicom, is the same instance at once."""
    expected = BytesIO()
    expected.write(bytes(128) + b"DICM")
    about = {"sop_class_uid": CTImageStorage, "sop_instance_uid": uid, "transfer_syntax": ExplicitVRLittleEndian}
    write_file_meta_info(expected, create_file_meta(**about))
    assert file_head(StoreRequest(1, str(CTImageStorage), uid), ExplicitVRLittleEndian) == expected.getvalue()
