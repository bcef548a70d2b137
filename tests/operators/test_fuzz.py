"""Whatever is in the input folder, a result or an error of ours comes out, in bounded time and memory.

The bounds are those of `tests.support.fuzzing`: 20 s of processor time and 1 GiB per case, in a process of its own, so
that a crash is seen.
`benchmarks/fuzz.py` is the long run.
"""

from __future__ import annotations

import gzip
import os
import socket
import struct
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from operators.build_volume import build_volume
from operators.dicom import header_bytes
from operators.dicom.codestream import MAX_TILES
from operators.dicom.file_format import inflate
from operators.dicom.read_header import read_instance
from operators.errors import SeriesError, SeriesFailed, SeriesRejected
from operators.images.header import MAX_HEADER_BYTES, MAX_SKIPPED_BYTES
from operators.images.read_image import find_image, image_series, image_volume
from operators.input import archives as unpack
from operators.instance import Instance
from operators.read_study import read_studies
from operators.series.ct_images import keep_ct_images
from tests.support.fuzzing import REAL, Worker
from tests.support.tiny_ct import CODECS, compress, put, stored_values, write_tiny_ct

CASES, LEAST_CASES = 350, 20
CT = b"1.2.840.10008.5.1.4.1.1.2\0"


@pytest.mark.parametrize("seed", [20, 21])
def test_broken_files_give_a_result_or_an_error_of_ours(seed):
    worker = Worker(seed, REAL.exists())
    end = time.monotonic() + 6
    results = []
    while len(results) < LEAST_CASES or (len(results) < CASES and time.monotonic() < end):
        results.append(worker.run(len(results)))
    worker.close()
    assert [one for one in results if one.defect] == []
    assert any(outcome.startswith("ok") for one in results for outcome in one.outcomes)


# Headers


def element(group: int, number: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    length = len(value) if length is None else length
    long = vr in (b"OB", b"OW", b"SQ", b"UN", b"UT")
    head = (
        struct.pack("<HH2sHI", group, number, vr, 0, length)
        if long
        else struct.pack("<HH2sH", group, number, vr, length)
    )
    return head + value


def header(path: Path, body: bytes, syntax: bytes = b"1.2.840.10008.1.2.1\0", meta: bytes = b"") -> Path:
    """A file of these bytes after the meta information."""
    group = element(2, 2, b"UI", CT) + meta + element(2, 0x10, b"UI", syntax)
    length = element(2, 0, b"UL", struct.pack("<I", len(group)))
    path.write_bytes(b"\0" * 128 + b"DICM" + length + group + body)
    return path


BEGIN = element(0x20, 0x9222, b"SQ", b"", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
END = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
EMPTY = element(0x20, 0x9222, b"LO", b"")
MODALITY = element(8, 0x60, b"CS", b"CT")
FEW_ELEMENTS = 1 << 16
PIXELS = element(0x7FE0, 0x10, b"OW", b"\0\0")


def test_a_sequence_that_nobody_needs_is_stepped_over(tmp_path):
    inner = BEGIN + EMPTY + BEGIN + END + element(0x20, 0x9999, b"OB", b"1234") + END
    path = header(tmp_path / "a", MODALITY + element(9, 1, b"OB", bytes(40_000)) + inner + PIXELS)
    instance = read_instance(path)
    assert instance is not None and instance.header.Modality == "CT"
    assert instance.pixels and instance.pixels.offset == path.stat().st_size - len(PIXELS)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(BEGIN + EMPTY * (FEW_ELEMENTS + 1), id="elements"),
        pytest.param(BEGIN * (header_bytes.MAX_DEPTH + 1), id="depth"),
        pytest.param(EMPTY * (header_bytes.MAX_READS + 1), id="at the top"),
        pytest.param(element(0x10, 0x10, b"UN", b"A" * (header_bytes.MAX_VALUE_BYTES + 2)), id="a value"),
        pytest.param(BEGIN + END[8:] + bytes(40_000), id="an end without a beginning"),
    ],
)
def test_a_header_beyond_all_bounds_is_not_taken_apart(tmp_path, body, monkeypatch):
    monkeypatch.setattr(header_bytes, "MAX_ELEMENTS", FEW_ELEMENTS)
    path = header(tmp_path / "a", MODALITY + body)
    with pytest.raises(SeriesRejected) as caught:
        read_instance(path)
    assert caught.value.reason == "UNREADABLE_FILE"


def test_a_file_cut_off_in_a_sequence_before_it_names_its_series_is_an_entry(tmp_path):
    with pytest.raises(SeriesRejected) as caught:
        read_instance(header(tmp_path / "a", MODALITY + BEGIN + EMPTY))
    assert caught.value.reason == "UNREADABLE_FILE"


def test_what_is_deflated_behind_odd_meta_information_is_not_inflated_without_bound(tmp_path):
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = bomb.compress(MODALITY + bytes(1 << 24)) + bomb.flush()
    meta = element(2, 3, b"UI", b"1." * 1000)  # the transfer syntax comes after the place where it is looked for
    path = header(tmp_path / "a", packed, b"1.2.840.10008.1.2.1.99", meta)
    with pytest.raises(SeriesRejected) as caught:
        read_instance(path)
    assert caught.value.reason == "UNREADABLE_FILE"


@pytest.mark.parametrize(("mib", "fits"), [(63, True), (65, False)])
def test_a_small_file_does_not_unfold_to_more_than_64_mib(tmp_path, mib, fits):
    """The fuzz run found five of 33 kB that took 1.6 s each, up to the 256 MiB that any file may have."""
    bomb = zlib.compressobj(1, zlib.DEFLATED, -15)
    packed = bomb.compress(MODALITY + element(0x7FE0, 0x10, b"OW", bytes(8)) + bytes(mib << 20)) + bomb.flush()
    path = header(tmp_path / "a", packed, b"1.2.840.10008.1.2.1.99")
    try:
        read_instance(path)
    except SeriesRejected as error:
        assert error.reason == "UNREADABLE_FILE" and ("ValueError" in error.message) is not fits
    else:
        assert fits


def test_no_more_of_a_deflated_file_is_read_than_it_may_have(tmp_path, monkeypatch):
    monkeypatch.setattr("operators.dicom.file_format.MAX_INFLATED_BYTES", 1000)
    path = header(tmp_path / "a", bytes(4000), b"1.2.840.10008.1.2.1.99")
    with path.open("rb") as file, pytest.raises(ValueError, match="too large"):
        inflate(file)


# Pixels


def one_slice(folder: Path, change) -> SeriesError:
    """What becomes of a series, compressed, whose slice 2 was changed."""
    folder.mkdir(exist_ok=True)
    write_tiny_ct(folder, change=change)
    [study] = read_studies(folder).studies
    with pytest.raises(SeriesError) as caught:
        list(build_volume(keep_ct_images(study.series[0])).slices())
    return caught.value


def changed_pixels(syntax: str, how) -> object:
    from pydicom.encaps import encapsulate

    def change(dataset, d):
        kind = f"{'i' if dataset.PixelRepresentation else 'u'}{dataset.BitsAllocated // 8}"
        plane = np.frombuffer(dataset.PixelData, kind).reshape(dataset.Rows, dataset.Columns)
        compress(syntax)(dataset, d)
        if d == 2:
            dataset["PixelData"].value = encapsulate([how(CODECS[syntax](plane))])

    return change


J2K, RLE, JPEG = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.70"


def tiles_of(size: int):
    def how(codestream: bytes) -> bytes:
        return codestream[:24] + struct.pack(">II", size, size) + codestream[32:]

    return how


def test_a_jpeg_2000_slice_without_all_its_tiles_is_not_filled_up_in_silence(tmp_path):
    error = one_slice(tmp_path / "a", changed_pixels(J2K, tiles_of(1)))
    assert error.reason == "TRUNCATED_PIXELS"


def test_more_tiles_than_there_can_be_are_rejected_before_memory_is_taken_for_them():
    from operators.dicom.codestream import has_all_tiles

    for side, tile in ((8192, 64), (1 << 31, 1)):
        siz = b"\xff\x4f\xff\x51" + struct.pack(">HH8I", 41, 0, side, side, 0, 0, tile, tile, 0, 0)
        assert (side // tile) ** 2 > MAX_TILES and not has_all_tiles(siz + bytes(100))


def test_what_stands_in_a_jp2_header_is_not_what_is_decoded(tmp_path):
    """The first codestream is checked, and it is decoded: one of another size in the boxes behind it plays no part."""
    import imagecodecs

    def boxed(codestream: bytes) -> bytes:
        large = imagecodecs.jpeg2k_encode(np.zeros((99, 99), np.int16), codecformat="jp2", reversible=True)
        note = struct.pack(">I4s", 8 + len(codestream), b"xml ") + codestream
        return large[:12] + note + large[12:]

    write_tiny_ct(tmp_path, change=changed_pixels(J2K, boxed))
    [study] = read_studies(tmp_path).studies
    np.testing.assert_array_equal(build_volume(keep_ct_images(study.series[0])).voxels(), stored_values())


def test_a_jpeg_marker_without_length_does_not_hide_the_real_frame_header(tmp_path):
    def hidden(codestream: bytes) -> bytes:
        return codestream[:2] + b"\xff\x01" + codestream[2:]

    assert one_slice(tmp_path / "a", changed_pixels(JPEG, hidden)).reason == "UNDECODABLE_PIXELS"


def test_rle_that_unfolds_to_more_than_the_matrix_is_not_unfolded(tmp_path):
    def more(codestream: bytes) -> bytes:
        return codestream + b"\x81\0" * 1000

    assert one_slice(tmp_path / "a", changed_pixels(RLE, more)).reason == "UNDECODABLE_PIXELS"


def test_compressed_pixels_of_more_than_twice_the_plain_bytes_are_not_read(tmp_path):
    error = one_slice(tmp_path / "a", changed_pixels(RLE, lambda codestream: codestream + bytes(1 << 18)))
    assert error.reason == "UNDECODABLE_PIXELS" and "more than" in error.message


# Files


def test_a_slice_that_was_replaced_by_another_one_of_the_same_form_has_failed(tmp_path):
    paths = write_tiny_ct(tmp_path)
    [study] = read_studies(tmp_path).studies
    volume = build_volume(keep_ct_images(study.series[0]))
    other = paths[3].read_bytes()
    paths[2].write_bytes(other)
    os.utime(paths[2], ns=(1, 1))
    with pytest.raises(SeriesFailed) as caught:
        volume.voxels()
    assert caught.value.reason == "FILE_CHANGED"


def test_a_frame_of_a_file_that_was_replaced_has_failed(tmp_path):
    from operators.synthetic.write_ct import affine_for
    from operators.synthetic.write_enhanced_ct import write_enhanced_ct

    [path] = write_enhanced_ct(stored_values(), affine_for((5, 6, 8), (2.0, 1.0, 1.0)), tmp_path)
    [study] = read_studies(tmp_path).studies
    volume = build_volume(keep_ct_images(study.series[0]))
    os.utime(path, ns=(1, 1))
    with pytest.raises(SeriesFailed) as caught:
        volume.voxels()
    assert caught.value.reason == "FILE_CHANGED"


@pytest.mark.parametrize(
    ("name", "content"), [("a.dcm", b""), ("a.IMA", b"text"), ("IM0041", b""), ("1.2.3.41", bytes(40_000))]
)
def test_a_file_that_is_named_as_dicom_and_is_none_is_in_the_ledger_and_its_neighbours_say_so(tmp_path, name, content):
    """A copy that was broken off leaves such files, and a slice that is missing at the end of a stack leaves no gap."""
    write_tiny_ct(tmp_path)
    (tmp_path / name).write_bytes(content)
    reading = read_studies(tmp_path)
    assert [one.reason for one in reading.unreadable] == ["UNREADABLE_FILE"]
    [study] = reading.studies
    assert [one.code for one in study.series[0].findings] == ["UNREADABLE_NEIGHBOUR"]


def test_a_file_with_a_damaged_prefix_is_in_the_ledger_whatever_its_name(tmp_path):
    paths = write_tiny_ct(tmp_path)
    paths[4].write_bytes(paths[4].read_bytes().replace(b"DICM", b"DIC\0", 1))
    assert [one.reason for one in read_studies(tmp_path).unreadable] == ["UNREADABLE_FILE"]


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    write_tiny_ct(tmp_path)
    os.mkfifo(tmp_path / "pipe.dcm")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(tmp_path / "socket"))
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "zero.dcm").symlink_to("/dev/zero")
    reading = read_studies(tmp_path)
    assert reading.files == 5 and not reading.unreadable


def test_names_that_are_not_utf_8_or_hold_newlines_are_read(tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n\x1b[2J"))
    write_tiny_ct(odd)
    reading = read_studies(tmp_path)
    [study] = reading.studies
    assert len(study.series[0].instances) == 5
    study.series[0].folder.encode()  # can be written


def test_folders_whose_names_differ_only_in_what_is_not_utf_8_are_two(tmp_path):
    """Files without a series UID are told apart by their folder, not by what is left of its name."""
    for name in (b"/\xff", b"/\xfe"):
        write_tiny_ct(
            Path(os.fsdecode(os.fsencode(tmp_path) + name)),
            change=lambda ds, d: put(ds, SeriesInstanceUID=None, StudyInstanceUID=None, SOPInstanceUID=None),
        )
    assert sum(len(study.series) for study in read_studies(tmp_path).studies) == 2


def test_a_uid_with_a_line_break_behind_it_is_read_without_it(tmp_path):
    """The name of a folder is made of it, and a line of the log."""
    write_tiny_ct(tmp_path, change=lambda ds, d: put(ds, SeriesInstanceUID="1.2.3\n"))
    [study] = read_studies(tmp_path).studies
    assert study.series[0].series_instance_uid == "1.2.3"


@pytest.mark.parametrize("keyword", ["Modality", "RescaleType", "SOPClassUID", "PhotometricInterpretation"])
def test_a_value_from_a_file_cannot_begin_a_line_of_the_log_or_steer_a_terminal(tmp_path, keyword):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the writer
        write_tiny_ct(tmp_path, change=lambda ds, d: put(ds, **{keyword: "1\n2020 INFO \x1b[2J^Doe"}))
    [study] = read_studies(tmp_path).studies
    with pytest.raises(SeriesError) as caught:
        build_volume(keep_ct_images(study.series[0]))
    assert caught.value.message.isprintable()
    assert "Doe" not in caught.value.message or keyword != "SOPClassUID"


# Research formats and archives


def test_a_long_line_in_a_metaimage_header_takes_no_time(tmp_path):
    path = tmp_path / "a.mha"
    path.write_bytes(b"ObjectType = Image\nElementDataFile = " + b" " * MAX_HEADER_BYTES)
    before = time.process_time()
    find_image(path, tmp_path)
    assert time.process_time() - before < 5  # it took minutes: the square of the length


@pytest.mark.parametrize("skipped", [1 << 20, MAX_SKIPPED_BYTES + 1])
def test_what_is_skipped_in_a_packed_file_is_not_kept(tmp_path, skipped):
    text = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 8 6 5\nencoding: gzip\n"
        f"byte skip: {skipped}\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nendian: little\nspace origin: (1,2,3)\n\n"
    )
    stored = stored_values()
    path = tmp_path / "a.nrrd"
    path.write_bytes(text.encode() + gzip.compress(bytes(skipped) + stored.tobytes(), 1))
    instance = find_image(path, tmp_path)
    assert isinstance(instance, Instance)
    series = image_series(instance, ".")
    if skipped > MAX_SKIPPED_BYTES:
        with pytest.raises(SeriesRejected) as caught:
            image_volume(series)
        assert caught.value.reason == "UNREADABLE_FILE"
    else:
        np.testing.assert_array_equal(image_volume(series).voxels(), stored)


def test_a_data_file_with_a_name_too_long_is_rejected(tmp_path):
    lines = b"ObjectType = Image\nDimSize = 1 1 1\nElementType = MET_SHORT\nElementDataFile = "
    (tmp_path / "a.mhd").write_bytes(lines + b"a" * 5000 + b"\n")
    instance = find_image(tmp_path / "a.mhd", tmp_path)
    assert isinstance(instance, Instance)
    with pytest.raises(SeriesRejected) as caught:
        image_volume(image_series(instance, "."))
    assert caught.value.reason == "DATA_FILE_OUTSIDE"


def archive_of(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return path


@pytest.mark.parametrize("name", ["d/" * 40 + "a", "a" * 256], ids=["deep", "long"])
def test_a_name_that_no_file_system_takes_is_refused(tmp_path, name):
    archive_of(tmp_path / "a.zip", name)
    with unpack.unpacked(tmp_path) as [archive]:
        assert archive.refused is not None and archive.refused.reason == "UNSAFE_ARCHIVE"


def test_a_list_of_entries_that_is_too_long_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "MAX_DIRECTORY_BYTES", 100_000)
    archive_of(tmp_path / "a.zip", *(f"{number:0100d}" for number in range(1000)))
    with unpack.unpacked(tmp_path) as [archive]:
        assert archive.refused is not None and archive.refused.reason == "UNSAFE_ARCHIVE"


def test_an_entry_of_no_name_is_refused(tmp_path):
    archive_of(tmp_path / "a.zip", "a")
    data = (tmp_path / "a.zip").read_bytes().replace(b"\1\0\0\0\0\0", b"\0\0\0\0\0\0")
    at = data.rindex(b"PK\1\2")
    (tmp_path / "a.zip").write_bytes(data[: at + 28] + b"\0\0\1\0" + data[at + 32 :])
    with unpack.unpacked(tmp_path) as [archive]:
        assert archive.refused is not None and archive.refused.reason == "UNREADABLE_FILE"


def test_an_archive_whose_entries_lie_before_it_is_unreadable(tmp_path):
    archive_of(tmp_path / "a.zip", "a")
    data = (tmp_path / "a.zip").read_bytes()
    at = data.rindex(b"PK\5\6")
    (tmp_path / "a.zip").write_bytes(data[: at + 16] + struct.pack("<I", 0xFFFF) + data[at + 20 :])
    with unpack.unpacked(tmp_path) as [archive]:
        assert archive.refused is not None and archive.refused.reason == "UNREADABLE_FILE"
