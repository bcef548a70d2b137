"""Values of a header: as the type that is asked for, or none."""

from __future__ import annotations

import math

import pytest
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from operators.dicom.header import Header
from operators.dicom.values import number_in, numbers_in, text_in, texts_in, values_in


def header_with(keyword: str, vr: str, value: object) -> Dataset:
    header = Dataset()
    header.add(DataElement(Tag(keyword), vr, value, already_converted=True))
    return header


@pytest.mark.parametrize("value", [None, "", b"1.5"], ids=["no value", "an empty one", "bytes"])
def test_an_element_without_a_usable_value_has_none(value):
    header = header_with("SliceThickness", "UN" if isinstance(value, bytes) else "DS", value)

    assert (values_in(header, "SliceThickness"), values_in(header, "KVP")) == ((), ())
    assert (text_in(header, "SliceThickness"), number_in(header, "SliceThickness")) == ("", None)


def test_a_value_that_cannot_be_converted_to_its_vr_is_left_out():
    header = Dataset()
    header._dict[Tag("Rows")] = RawDataElement(Tag("Rows"), "US", 3, b"abc", 0, False, True)

    assert values_in(header, "Rows") == ()


@pytest.mark.parametrize("shared", [False, True], ids=["pydicom's values", "values that headers share"])
def test_several_values_are_texts_without_what_surrounds_each(shared):
    header = header_with("ImageType", "CS", ["ORIGINAL ", "", " AXIAL\0"])
    if shared:
        header = Header(
            [("ImageType", DataElement(Tag("ImageType"), "CS", ("ORIGINAL ", "", " AXIAL\0"), None, None, True))]
        )

    assert texts_in(header, "ImageType") == ("ORIGINAL", "", "AXIAL")
    assert text_in(header, "ImageType") == "ORIGINAL\\\\AXIAL"


def test_text_is_no_number_even_where_it_looks_like_one():
    header = header_with("KVP", "LO", "120")

    assert (numbers_in(header, "KVP"), number_in(header, "KVP")) == ([], None)


def test_one_text_among_numbers_leaves_no_numbers():
    assert numbers_in(header_with("ImagePositionPatient", "DS", [1.0, "2", 3.0]), "ImagePositionPatient") == []


@pytest.mark.parametrize("values", [[math.inf], [-math.inf], [math.nan], [1.0, 2.0]], ids=str)
def test_the_only_number_is_finite_and_alone(values):
    header = header_with("KVP", "DS", values[0] if len(values) == 1 else values)

    assert len(numbers_in(header, "KVP")) == len(values)
    assert number_in(header, "KVP") is None


def test_an_integer_that_no_float_holds_is_left_out():
    assert numbers_in(header_with("Exposure", "IS", 10**400), "Exposure") == []


def test_a_number_is_a_plain_float():
    found = number_in(header_with("KVP", "IS", 120), "KVP")

    assert (found, type(found)) == (120.0, float)
