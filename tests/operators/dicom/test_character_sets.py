"""Text is decoded exactly as its character set says, or left out with a finding; it is never guessed or replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.charset import encode_string

from operators.build_volume import build_volume
from operators.dicom.character_sets import Undecodable, character_sets, decode_text
from operators.dicom.read_header import read_instance
from operators.read_study import read_studies
from operators.series.ct_images import keep_ct_images
from tests.support.checkout import SHARED_FAULTS, skip_or_fail
from tests.support.tiny_ct import Change, put, stored_values, write_tiny_ct

NAME = "张^智宏"
GBK = NAME.encode("gbk")


def decoded(value: bytes, terms: str, *, name: bool = True) -> str:
    return decode_text(value, character_sets(terms), name=name)


def raw_text(terms: str | None, **texts: bytes) -> Change:
    """A change that writes text as bytes of its own, and declares a character set."""

    def change(dataset, d):
        for keyword, value in texts.items():
            put(dataset, **{keyword: "@" * len(value) + "@" * (len(value) % 2)})
        put(dataset, SpecificCharacterSet=terms)

    return change


def written(folder: Path, terms: str | None, **texts: bytes) -> Path:
    """A series whose texts stand as bytes in its files."""
    for path in write_tiny_ct(folder, stored_values(), change=raw_text(terms, **texts)):
        content = path.read_bytes()
        for value in sorted(texts.values(), key=len, reverse=True):
            length = len(value) + len(value) % 2
            content = content.replace(b"@" * length, value.ljust(length), 1)
        path.write_bytes(content)
    return folder


def volume_of(folder: Path):
    [study] = read_studies(folder).studies
    return build_volume(keep_ct_images(study.series[0]))


# The standard's own examples: PS3.5 H.3, I.2, J.1, J.2, K.2


@pytest.mark.parametrize(
    ("terms", "value", "text"),
    [
        ("\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
        (
            "ISO 2022 IR 13\\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
            "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎",
        ),
        ("\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7", "Hong^Gildong=洪^吉洞"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小东".encode(), "Wang^XiaoDong=王^小东"),
        ("GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
        ("GBK", GBK, NAME),
        (
            "\\ISO 2022 IR 58",
            b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
            "Zhang^XiaoDong=张^小东=",
        ),
        ("ISO_IR 100", "Buc^Jérôme".encode("latin-1"), "Buc^Jérôme"),
        ("ISO_IR 144", "Люкceмбypг".encode("iso8859-5"), "Люкceмбypг"),
        ("ISO_IR 203", "Œuvre^€".encode("iso8859-15"), "Œuvre^€"),
        ("ISO 2022 IR 100\\ISO 2022 IR 126", b"Dion\x1b-F\xc4\xe9\xef^\xe9", "DionΔιο^é"),
        ("ISO_IR_100", b"M\xfcller", "Müller"),
        ("", b"Plain^Name", "Plain^Name"),
    ],
)
def test_text_is_decoded_as_its_character_set_says(terms, value, text):
    assert decoded(value, terms) == text


@pytest.mark.parametrize("codec", ["gb2312", "euc_kr"])
def test_every_pair_of_bytes_of_a_double_byte_set_is_that_of_its_codec(codec):
    term, escape = {"gb2312": ("58", b"\x1b$)A"), "euc_kr": ("149", b"\x1b$)C")}[codec]
    for lead in range(0xA1, 0xFF):
        for trail in range(0xA1, 0xFF):
            pair = bytes([lead, trail])
            text = decoded(b"a" + escape + pair + b"b", f"\\ISO 2022 IR {term}")
            try:
                assert text == f"a{pair.decode(codec)}b"
            except UnicodeDecodeError:
                assert isinstance(text, Undecodable) and text == ""


@pytest.mark.parametrize(
    ("terms", "value"),
    [
        ("ISO_IR 192", GBK),
        ("", GBK),  # nothing declared: ASCII
        ("ISO_IR 6", GBK),
        ("GB18030", "Müller".encode("latin-1") + b"\xff"),
        ("\\ISO 2022 IR 58", b"Zhang=" + GBK),  # without the escape sequence
        ("\\ISO 2022 IR 58", b"\x1b$)C\xd5\xc5"),  # another set than the declared one
        ("\\ISO 2022 IR 58", b"\x1b$)A\xd5"),  # half of a character
        ("\\ISO 2022 IR 58", b"\x1b$)A\xd5\xc5^\xd0\xa1"),  # ^ ended the reach of the escape sequence
        ("\\ISO 2022 IR 87", b"\x1b$B;3E"),
        ("ISO_IR 192", b"\x1b$B;3ED\x1b(B"),  # no code extensions in UTF-8
        ("ISO_IR 192", "Na\ufffdme".encode()),  # replaced by somebody before us
        ("ISO_IR 100", b"O\x92Brien"),  # Windows-1252, which DICOM does not have
        ("ISO_IR 127", b"\xff"),
        ("ISO_IR 13", b"\xe0\xa1"),
        ("WINDOWS-1252", b"M\xfcller"),
        ("ISO_IR 100", b"Name\x1b"),
    ],
)
def test_what_is_not_valid_is_left_out(terms, value):
    text = decoded(value, terms)
    assert text == "" and isinstance(text, Undecodable)


def test_under_a_single_byte_set_every_valid_byte_is_kept_whatever_it_was_meant_to_be():
    assert decoded(GBK, "ISO_IR 100") == GBK.decode("latin-1")


@given(st.text(alphabet=st.characters(min_codepoint=0x20, exclude_characters="\\\ufffd\x7f", codec="utf-8")))
def test_any_text_survives_utf_8_and_gb18030(text):
    assert decoded(text.encode(), "ISO_IR 192", name=False) == text
    assert decoded(text.encode("gb18030"), "GB18030", name=False) == text


@pytest.mark.parametrize("terms", ["ISO 2022 IR 6\\ISO 2022 IR 87", "ISO 2022 IR 6\\ISO 2022 IR 149"])
def test_what_pydicom_encodes_is_decoded(terms):
    codec = "iso2022_jp" if terms.endswith("87") else "euc_kr"
    name = "山田^太郎" if codec == "iso2022_jp" else "洪^吉洞"
    parts = [encode_string(part, ["iso8859", codec]) for part in name.split("^")]
    assert decoded(b"^".join(parts), terms) == name


@given(st.binary(), st.sampled_from(["", "ISO_IR 100", "ISO_IR 192", "GB18030", "\\ISO 2022 IR 58", "ISO_IR 13"]))
def test_no_bytes_raise_or_give_a_replacement_character(value, terms):
    assert "\ufffd" not in decoded(value, terms)


# In files


def test_text_that_cannot_be_decoded_is_empty_and_a_finding_names_the_elements_alone(tmp_path):
    folder = written(tmp_path, "ISO_IR 192", PatientName=GBK, ConvolutionKernel=b"\xb1\xea\xd7\xbc\xb6", PatientID=b"7")
    [first, *_] = sorted(folder.iterdir())
    header = read_instance(first).header
    assert header.PatientName == "" and header.ConvolutionKernel == "" and str(header.PatientID) == "7"
    [finding] = [one for one in volume_of(folder).findings if one.code == "UNDECODABLE_TEXT"]
    assert finding.detail.startswith("ConvolutionKernel, PatientName: ")


def test_code_strings_are_ascii_value_by_value(tmp_path):
    """A localizer is still known as one where another value of its Image Type cannot be decoded."""
    folder = written(tmp_path, "ISO_IR 100", ImageType=b"ORIGINAL\\PRIMARY\\LOCALIZER\\\xd5\xc5", BodyPartExamined=GBK)
    [first, *_] = sorted(folder.iterdir())
    header = read_instance(first).header
    assert tuple(header.ImageType) == ("ORIGINAL", "PRIMARY", "LOCALIZER", "") and header.BodyPartExamined == ""


def test_text_without_fault_has_no_finding(tmp_path):
    folder = written(tmp_path, "GB18030", PatientName=GBK)
    assert str(read_instance(sorted(folder.iterdir())[0]).header.PatientName) == NAME
    assert "UNDECODABLE_TEXT" not in {finding.code for finding in volume_of(folder).findings}


@pytest.mark.parametrize(
    ("fault", "name", "codes"),
    [
        ("charset-58", "Zhang^XiaoDong=张^小东", []),
        ("charset-declared-utf8-is-gb18030", "", ["UNDECODABLE_TEXT"]),
    ],
)
def test_the_report_has_the_right_name_or_none(tmp_path, fault, name, codes):
    from app.cli import main

    if not (SHARED_FAULTS / fault).exists():
        skip_or_fail(f"no ../shared/faults/{fault} beside this checkout")
    assert main(["encode", str(SHARED_FAULTS / fault), "-o", str(tmp_path)]) == 0
    [report], [features] = tmp_path.glob("*/features.sr.dcm"), tmp_path.glob("*/features.json")
    assert str(dcmread(report).PatientName) == name
    text = features.read_text(encoding="utf-8")
    assert "\ufffd" not in text
    found = [one["code"] for one in json.loads(text)["findings"]]
    assert [code for code in found if code == "UNDECODABLE_TEXT"] == codes
