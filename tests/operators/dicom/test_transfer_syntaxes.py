"""Every transfer syntax that is read gives what an independent decoder gives: pydicom with pylibjpeg."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate

from operators.dicom.decode_slice import decode_slice
from operators.dicom.read_header import read_instance
from operators.dicom.transfer_syntaxes import COMPRESSED_SYNTAXES
from tests.support.tiny_ct import CODECS, put, write_tiny_ct

Encoder = Callable[[np.ndarray], bytes]

Y, X = np.mgrid[:64, :48]
SMOOTH = (1500 + 1000 * np.sin(X / 7) * np.cos(Y / 9) + np.random.default_rng(0).normal(0, 20, X.shape)).astype("u2")
ENCODERS: dict[str, Encoder] = CODECS | {
    "1.2.840.10008.1.2.4.50": lambda plane: imagecodecs.jpeg8_encode(plane, level=90),
    "1.2.840.10008.1.2.4.51": lambda plane: imagecodecs.jpeg8_encode(plane, level=90, bitspersample=12),
    "1.2.840.10008.1.2.4.81": lambda plane: imagecodecs.jpegls_encode(plane, level=3),
    "1.2.840.10008.1.2.4.91": lambda plane: imagecodecs.jpeg2k_encode(
        plane, level=60, codecformat="j2k", reversible=False, bitspersample=12
    ),
    "1.2.840.10008.1.2.4.202": lambda plane: imagecodecs.htj2k_encode(plane, reversible=True),
    "1.2.840.10008.1.2.4.203": lambda plane: imagecodecs.htj2k_encode(plane, level=0.0005, reversible=False),
}
LOSSY = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81, 91, 203)}
ROUNDED = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"}
"""An inverse cosine transform may be rounded either way (ITU-T T.83): one step."""


def written(folder: Path, syntax: str) -> Path:
    bits = 8 if syntax.endswith(".50") else 12
    plane = (SMOOTH >> 4).astype("u1") if bits == 8 else SMOOTH

    def change(dataset, d):
        dataset.PixelData = encapsulate([ENCODERS[syntax](plane)])
        dataset["PixelData"].VR = "OB"
        put(dataset, BitsStored=bits, HighBit=bits - 1)
        dataset.file_meta.TransferSyntaxUID = syntax

    [path] = write_tiny_ct(folder, plane[None], change=change)
    return path


@pytest.mark.parametrize("syntax", COMPRESSED_SYNTAXES)
def test_each_compressed_syntax_is_read_as_an_independent_decoder_reads_it(tmp_path, syntax):
    path = written(tmp_path, syntax)
    dataset = dcmread(path)
    dataset.pixel_array_options(decoding_plugin="pylibjpeg")
    expected = dataset.pixel_array.astype(int)

    instance = read_instance(path)
    assert instance is not None
    found = decode_slice(instance).hu.astype(int)

    assert np.abs(found - expected).max() <= (syntax in ROUNDED)
    original = SMOOTH >> 4 if syntax.endswith(".50") else SMOOTH
    error = np.abs(found - original.astype(int)).max()
    assert 0 < error < 100 if syntax in LOSSY else error == 0
