"""One file → one slice of HU, exact in every transfer syntax; what cannot be read for sure is rejected."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from operators.dicom.decode_slice import decode_slice
from operators.dicom.read_header import read_instance
from operators.errors import SeriesFailed, SeriesRejected
from operators.instance import Instance
from operators.types import HuSlice
from tests.support.tiny_ct import CODECS, Change, compress, put, stored_values, write_tiny_ct

LOSSLESS = ("JLSL", "JPLL", "J2KR", "RLE")
LOSSLESS_WITHOUT_SIGN = [
    syntax for syntax in CODECS if syntax not in ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201")
]
LOSSY = {"JLSN": 4, "J2KI": 450}
"""Real slices compressed with loss, and how far a value may be from the original (measured: 4, 402)."""


def instance_of(path: Path) -> Instance:
    instance = read_instance(path)
    assert instance is not None
    return instance


def write_one(folder: Path, plane: np.ndarray, change: Change | None = None, **options: object) -> Path:
    [path] = write_tiny_ct(folder, np.asarray(plane)[None], change=change, **options)
    return path


def decoded(folder: Path, plane: np.ndarray, change: Change | None = None, **options: object) -> HuSlice:
    return decode_slice(instance_of(write_one(folder, plane, change, **options)))


def reason(path: Path) -> str:
    with pytest.raises(SeriesRejected) as caught:
        decode_slice(instance_of(path))
    return caught.value.reason


def codes(hu_slice: HuSlice) -> list[str]:
    return [finding.code for finding in hu_slice.findings]


def setting(**values: object) -> Change:
    return lambda dataset, d: put(dataset, **values)


def coded(codestream: bytes, syntax: str, **values: object) -> Change:
    """A change that puts a codestream in the place of the pixels."""

    def change(dataset, d):
        dataset.PixelData = encapsulate([codestream])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = syntax
        put(dataset, **values)

    return change


def then(*changes: Change) -> Change:
    def change(dataset, d):
        for each in changes:
            each(dataset, d)

    return change


# From stored values to HU


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        (kind, syntax)
        for kind in ("u1", "i1", "u2", "i2", "u4", "i4")
        for syntax in ("1.2.840.10008.1.2.1", ImplicitVRLittleEndian, ExplicitVRBigEndian)
        if not (kind[1] == "1" and syntax == ExplicitVRBigEndian)
    ],
)
def test_each_width_and_sign_is_read_to_its_ends(tmp_path, kind, syntax):
    ends = np.iinfo(kind)
    low, high = max(ends.min, -1024), min(ends.max, 32767)
    plane = np.array([[low, high], [0, 1]], kind)
    hu = decoded(tmp_path, plane, syntax=syntax)
    assert hu.hu.dtype == np.int16 and hu.hu.tolist() == plane.tolist() and codes(hu) == []


def test_bytes_in_a_big_endian_file_are_rejected_for_they_may_be_swapped(tmp_path):
    assert reason(write_one(tmp_path, np.zeros((2, 2), np.uint8), syntax=ExplicitVRBigEndian)) == "UNSUPPORTED_PIXELS"


@pytest.mark.parametrize("bits", range(1, 17))
def test_each_number_of_bits_stored_is_read(tmp_path, bits):
    plane = np.array([[0, (1 << bits) - 1], [0, 0]], np.uint16)
    change = setting(BitsStored=bits, HighBit=bits - 1)
    assert decoded(tmp_path, plane, change, intercept=-40000 if bits == 16 else -900).hu[0, 1] == (
        25535 if bits == 16 else (1 << bits) - 901
    )


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", ExplicitVRBigEndian, *CODECS])
@pytest.mark.parametrize("garbage", [0x8000, 0x1000, 0xF000])
def test_bits_beyond_those_of_the_value_are_masked_with_a_finding(tmp_path, syntax, garbage):
    """An overlay in bit 15, say; compressed without loss with the rest of the cell."""
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) + 20
    changes = [setting(BitsStored=12, HighBit=11)]
    if syntax in CODECS:
        changes.append(compress(syntax))
        native = "1.2.840.10008.1.2.1"
    else:
        native = syntax
    plane = values.copy()
    plane[::2] |= garbage
    hu = decoded(tmp_path, plane, then(*changes), syntax=native, intercept=-1024)
    assert (hu.hu == values.astype(int) - 1024).all() and codes(hu) == ["UNUSED_BITS_MASKED"]


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", ExplicitVRBigEndian, *LOSSLESS_WITHOUT_SIGN])
def test_negative_values_that_were_not_sign_extended_are_negative(tmp_path, syntax):
    values = np.array([[-1000, -1], [0, 2047]] * 4, np.int16).repeat(4, axis=1)
    changes = [setting(BitsStored=12, HighBit=11)]
    native = syntax
    if syntax in CODECS:
        changes.append(compress(syntax))
        native = "1.2.840.10008.1.2.1"
    hu = decoded(tmp_path, values & 0x0FFF, then(*changes), syntax=native)
    assert (hu.hu == values).all()
    assert codes(hu) == ([] if "4.57" in syntax or "4.70" in syntax else ["UNUSED_BITS_MASKED"])  # JPEG has 12 bits


def test_values_in_the_high_bits_are_read_from_there(tmp_path):
    plane = np.array([[-1000, 40], [0, 2047]], np.int16) << 4
    assert decoded(tmp_path, plane, setting(BitsStored=12, HighBit=15)).hu.tolist() == [[-1000, 40], [0, 2047]]
    noisy = decoded(tmp_path / "noisy", plane | 7, setting(BitsStored=12, HighBit=15))
    assert noisy.hu.tolist() == [[-1000, 40], [0, 2047]] and codes(noisy) == ["UNUSED_BITS_MASKED"]


def test_padding_in_the_bits_of_the_value_is_padding_where_other_bits_are_set(tmp_path):
    change = setting(BitsStored=12, HighBit=11, PixelPaddingValue=-2000)
    hu = decoded(tmp_path, np.array([[-2000 & 0x0FFF, 40]], np.int16), change)
    assert hu.hu.tolist() == [[-1000, 40]] and set(codes(hu)) == {"UNUSED_BITS_MASKED", "PIXEL_PADDING"}


def test_padding_may_lie_beyond_the_bits_stored(tmp_path):
    change = setting(BitsStored=12, HighBit=11, PixelPaddingValue=-2000)
    hu = decoded(tmp_path, np.array([[63536, 24]], np.uint16), change, intercept=-1024)
    assert hu.hu.tolist() == [[-1000, -1000]] and codes(hu) == ["PIXEL_PADDING"]


def test_fractional_slopes_are_rounded_half_to_even(tmp_path):
    hu = decoded(tmp_path, np.array([[1, 3, 5, -1, -3, 2]], np.int16), slope=0.5)
    assert hu.hu.tolist() == [[0, 2, 2, 0, -2, 1]]


def test_whole_slopes_are_exact(tmp_path):
    hu = decoded(tmp_path, np.array([[0, 1, 4095]], np.uint16), slope=2, intercept=-8192 + 7168)
    assert hu.hu.tolist() == [[-1024, -1022, 7166]]


def test_hu_beyond_int16_are_clipped_and_never_wrapped(tmp_path):
    hu = decoded(tmp_path, np.array([[0, 65535, 40000]], np.uint16), intercept=-1000)
    assert hu.hu.tolist() == [[-1000, 32767, 32767]] and codes(hu) == ["HU_SATURATED"]


def test_a_slope_beyond_all_sense_is_clipped_without_a_warning(tmp_path):
    hu = decoded(tmp_path, np.array([[0, 3]], np.uint16), slope=1e307)
    assert hu.hu.tolist() == [[0, 32767]] and codes(hu) == ["HU_SATURATED"]


@pytest.mark.parametrize("outside", [-1025, -1500, -2000, -3024, -32768])
def test_what_lies_below_the_scale_of_ct_is_air_with_a_finding(tmp_path, outside):
    hu = decoded(tmp_path, np.array([[outside, -1024, -1001, 40]], np.int16))
    assert hu.hu.tolist() == [[-1000, -1024, -1001, 40]] and codes(hu) == ["BELOW_CT_SCALE"]


@pytest.mark.parametrize("declared", [-2000, 63536])
def test_declared_padding_is_compared_before_the_rescale_in_the_sign_of_the_pixels(tmp_path, declared):
    def change(dataset, d):
        dataset.add_new(0x00280120, "SS" if declared < 0 else "US", declared)

    hu = decoded(tmp_path, np.array([[-2000, 1064, 24]], np.int16), change, intercept=-1024)
    assert hu.hu.tolist() == [[-1000, 40, -1000]] and codes(hu) == ["PIXEL_PADDING"]


def test_a_range_of_padding_is_air_and_says_nothing_of_saturation(tmp_path):
    change = setting(PixelPaddingValue=-32768, PixelPaddingRangeLimit=-31000)
    hu = decoded(tmp_path, np.array([[-32768, -31500, -31000, 100]], np.int16), change, intercept=-1024)
    assert hu.hu.tolist() == [[-1000, -1000, -1000, -924]] and codes(hu) == ["PIXEL_PADDING"]


def test_padding_that_is_declared_and_not_there_is_no_finding(tmp_path):
    assert codes(decoded(tmp_path, np.array([[0, 1]], np.int16), setting(PixelPaddingValue=-2000))) == []


def test_a_slice_that_is_all_padding_is_all_air(tmp_path):
    hu = decoded(tmp_path, np.full((2, 2), -2000, np.int16), setting(PixelPaddingValue=-2000), intercept=-1024)
    assert (hu.hu == -1000).all()


# Transfer syntaxes


@pytest.mark.parametrize("syntax", CODECS)
@pytest.mark.parametrize("kind", ["u2", "i2"])
def test_each_lossless_syntax_is_exact(tmp_path, syntax, kind):
    plane = (
        stored_values(1, 33, 47)[0].astype(kind) if kind == "i2" else stored_values(1, 33, 47)[0].astype("u2") % 4096
    )
    np.testing.assert_array_equal(decoded(tmp_path, plane, compress(syntax)).hu, plane)


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("slice_name", ["CT1", "CT2"])
def test_real_slices_are_the_same_in_each_lossless_syntax(shared_ct, kind, slice_name):
    folder = shared_ct("nema_wg04_ct")
    expected = decode_slice(instance_of(folder / "REF" / f"{slice_name}_UNC"))
    found = decode_slice(instance_of(folder / kind / f"{slice_name}_{kind}"))
    np.testing.assert_array_equal(found.hu, expected.hu)


@pytest.mark.parametrize("slice_name", ["CT1", "CT2"])
def test_real_native_slices_are_those_of_pydicom(shared_ct, slice_name):
    path = shared_ct("nema_wg04_ct") / "REF" / f"{slice_name}_UNC"
    dataset = dcmread(path)
    expected = dataset.pixel_array.astype(int) + int(dataset.RescaleIntercept)
    np.testing.assert_array_equal(decode_slice(instance_of(path)).hu, np.where(expected < -1024, -1000, expected))


@pytest.mark.parametrize("kind", LOSSY)
@pytest.mark.parametrize("slice_name", ["CT1", "CT2"])
def test_real_lossy_slices_are_near_the_original(shared_ct, kind, slice_name):
    folder = shared_ct("nema_wg04_ct")
    expected = decode_slice(instance_of(folder / "REF" / f"{slice_name}_UNC")).hu.astype(int)
    found = decode_slice(instance_of(folder / kind / f"{slice_name}_{kind}")).hu.astype(int)
    inside = (expected > -1000) & (found > -1000)
    assert np.abs(found - expected)[inside].max() <= LOSSY[kind]


@pytest.mark.parametrize("name", ["explicit_VR-UN.dcm", "bad_sequence.dcm"])
def test_real_slices_with_broken_headers_are_those_of_pydicom(shared_ct, name):
    [path] = [one for one in shared_ct("pydicom_data_singles").iterdir() if one.name.startswith(name[:-4])]
    dataset = dcmread(path)
    expected = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    np.testing.assert_array_equal(decode_slice(instance_of(path)).hu, np.where(expected < -1024, -1000, expected))


def test_jpeg_baseline_and_extended_are_near_the_original(tmp_path):
    y, x = np.mgrid[:64, :64]
    for bits, syntax in ((8, "1.2.840.10008.1.2.4.50"), (12, "1.2.840.10008.1.2.4.51")):
        plane = ((x + y) * ((1 << bits) - 1) // 126).astype(f"u{(bits + 7) // 8}")
        codestream = imagecodecs.jpeg8_encode(plane, level=100, bitspersample=bits)
        change = coded(codestream, syntax, BitsStored=bits, HighBit=bits - 1)
        found = decoded(tmp_path / str(bits), plane, change).hu
        assert np.abs(found.astype(int) - plane).max() <= 2


def test_a_codestream_in_many_fragments_is_one_slice(tmp_path):
    plane = stored_values(1, 32, 32)[0]
    codestream = CODECS["1.2.840.10008.1.2.4.80"](plane)

    def change(dataset, d):
        dataset.PixelData = encapsulate([codestream], fragments_per_frame=5)
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.80"

    np.testing.assert_array_equal(decoded(tmp_path, plane, change).hu, plane)


# What cannot be read for sure


@pytest.mark.parametrize("syntax", CODECS)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_file_cut_off_in_its_compressed_pixels_is_truncated(tmp_path, syntax, part):
    path = write_one(tmp_path, stored_values(1, 64, 64)[0], compress(syntax))
    content = path.read_bytes()
    start = content.index(b"\xe0\x7f\x10\x00")
    path.write_bytes(content[: start + int((len(content) - start) * part)])
    assert reason(path) == "TRUNCATED_PIXELS"


@pytest.mark.parametrize("syntax", CODECS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_codestream_that_was_cut_off_before_it_was_stored_is_rejected(tmp_path, syntax, part):
    plane = stored_values(1, 64, 64)[0]
    codestream = CODECS[syntax](plane)
    path = write_one(tmp_path, plane, coded(codestream[: int(len(codestream) * part)], syntax))
    assert reason(path) in ("TRUNCATED_PIXELS", "UNDECODABLE_PIXELS")


@pytest.mark.parametrize("syntax", CODECS)
@pytest.mark.parametrize("content", [b"\0" * 200, b"\xff\xd8\xff\xd9", b"\xff" * 99], ids=["zero", "hull", "ones"])
def test_what_is_no_codestream_is_rejected(tmp_path, syntax, content):
    path = write_one(tmp_path, stored_values(1)[0], coded(content, syntax))
    assert reason(path) in ("TRUNCATED_PIXELS", "UNDECODABLE_PIXELS")


@pytest.mark.parametrize(
    "table", [[2, 64, 1 << 31], [2, 900, 64], [2, 0, 0], [9, 64, 80], [0, 0, 0], [2, 64, 64]], ids=str
)
def test_rle_segments_at_impossible_offsets_are_rejected(tmp_path, table):
    """One of these ended the process in a decoder that trusts them."""
    plane = stored_values(1, 16, 16)[0]
    codestream = CODECS["1.2.840.10008.1.2.5"](plane)
    broken = np.array(table, "<u4").tobytes() + codestream[12:]
    assert reason(write_one(tmp_path, plane, coded(broken, "1.2.840.10008.1.2.5"))) == "UNDECODABLE_PIXELS"


@pytest.mark.parametrize("syntax", CODECS)
def test_a_matrix_that_the_codestream_contradicts_is_rejected(tmp_path, syntax):
    plane = stored_values(1, 64, 64)[0]
    path = write_one(tmp_path, plane, then(compress(syntax), setting(Rows=8000, Columns=8000)))
    assert reason(path) == "UNDECODABLE_PIXELS"


def test_native_pixels_shorter_than_the_matrix_are_truncated(tmp_path):
    path = write_one(tmp_path, stored_values(1)[0], setting(Rows=7))
    assert reason(path) == "TRUNCATED_PIXELS"


@pytest.mark.parametrize("syntax", CODECS)
def test_a_codestream_without_a_delimiter_behind_it_is_read(tmp_path, syntax):
    plane = stored_values(1, 32, 32)[0]
    path = write_one(tmp_path, plane, coded(CODECS[syntax](plane), syntax))
    content = path.read_bytes()
    assert content.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
    path.write_bytes(content[:-8])
    np.testing.assert_array_equal(decode_slice(instance_of(path)).hu, plane)


def test_a_file_without_pixels_is_rejected(tmp_path):
    path = write_one(tmp_path, stored_values(1)[0], setting(PixelData=None))
    assert reason(path) == "MISSING_PIXELS"


def test_a_file_that_was_changed_since_its_header_was_read_fails(tmp_path):
    path = write_one(tmp_path, stored_values(1)[0])
    instance = instance_of(path)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(SeriesFailed, match="FILE_CHANGED"):
        decode_slice(instance)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"])
def test_a_negative_value_in_fewer_bits_than_the_header_says_is_rejected(tmp_path, syntax):
    """In a JPEG of 12 bits -1 is 4095; with 16 bits stored it could be either."""
    codestream = imagecodecs.ljpeg_encode(np.full((8, 8), 4095, np.uint16), bitspersample=12)
    path = write_one(tmp_path, np.zeros((8, 8), np.int16), coded(codestream, syntax))
    assert reason(path) == "BITS_MISMATCH"


def test_a_value_that_fits_in_fewer_bits_than_the_header_says_is_read(tmp_path):
    codestream = imagecodecs.ljpeg_encode(np.full((8, 8), 2047, np.uint16), bitspersample=12)
    hu = decoded(tmp_path, np.zeros((8, 8), np.int16), coded(codestream, "1.2.840.10008.1.2.4.70"))
    assert (hu.hu == 2047).all()


def test_a_negative_value_in_the_bits_that_the_header_says_is_read(tmp_path):
    codestream = imagecodecs.ljpeg_encode(np.full((8, 8), 4095, np.uint16), bitspersample=12)
    change = coded(codestream, "1.2.840.10008.1.2.4.70", BitsStored=12, HighBit=11)
    assert (decoded(tmp_path, np.zeros((8, 8), np.int16), change).hu == -1).all()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201"])
@pytest.mark.parametrize(("coded_as", "declared_as", "value"), [("u2", "i2", 40000), ("i2", "u2", -5)])
def test_jpeg_2000_of_the_other_sign_is_rejected_where_it_matters(tmp_path, syntax, coded_as, declared_as, value):
    codestream = CODECS[syntax](np.full((8, 8), value, coded_as))
    path = write_one(tmp_path, np.zeros((8, 8), declared_as), coded(codestream, syntax))
    assert reason(path) == "BITS_MISMATCH"


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201"])
@pytest.mark.parametrize(("coded_as", "declared_as"), [("u2", "i2"), ("i2", "u2")])
def test_jpeg_2000_of_the_other_sign_is_read_where_it_does_not_matter(tmp_path, syntax, coded_as, declared_as):
    codestream = CODECS[syntax](np.full((8, 8), 1234, coded_as))
    hu = decoded(tmp_path, np.zeros((8, 8), declared_as), coded(codestream, syntax))
    assert (hu.hu == 1234).all()


@pytest.mark.parametrize("seed", range(30))
def test_noise_in_a_codestream_gives_a_slice_or_a_reason(tmp_path, seed):
    random = np.random.default_rng(seed)
    syntax = list(CODECS)[seed % len(CODECS)]
    plane = stored_values(1, 32, 32)[0]
    codestream = bytearray(CODECS[syntax](plane))
    for place in random.integers(0, len(codestream), 20):
        codestream[place] = random.integers(0, 256)
    instance = instance_of(write_one(tmp_path, plane, coded(bytes(codestream), syntax)))
    try:
        assert decode_slice(instance).hu.shape == plane.shape
    except SeriesRejected as error:
        assert error.reason in ("TRUNCATED_PIXELS", "UNDECODABLE_PIXELS", "BITS_MISMATCH")
