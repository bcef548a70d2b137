"""A tensor of an ONNX graph that lies in another file is found wherever in the graph it is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.onnx_graph import has_external_data
from tests.support.checkout import ROOT


def outside(name: str = "w") -> TensorProto:
    """A tensor in another file; the entry's value stands before its key."""
    tensor = TensorProto(name=name, dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    entry = b"\x12\x05x.bin\x0a\x08location"
    return TensorProto.FromString(tensor.SerializeToString() + b"\x6a" + bytes([len(entry)]) + entry)


def model(*nodes, tensors=(), functions=()):
    graph = helper.make_graph(list(nodes), "g", [], [], initializer=list(tensors))
    return helper.make_model(graph, functions=list(functions))


def constant(tensor: TensorProto):
    return helper.make_node("Constant", [], ["c"], value=tensor)


def branch(tensor: TensorProto):
    inner = helper.make_graph([constant(tensor)], "then", [], [])
    return helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)


def sparse(tensor: TensorProto):
    values = onnx.SparseTensorProto(values=tensor, indices=numpy_helper.from_array(np.zeros(1, np.int64)), dims=[4])
    return onnx.NodeProto(
        op_type="Constant", output=["c"], attribute=[onnx.AttributeProto(name="s", sparse_tensor=values)]
    )


def function(tensor: TensorProto):
    return helper.make_function("d", "f", [], ["c"], [constant(tensor)], [helper.make_opsetid("", 18)])


PLACES = {
    "an initializer": lambda tensor: model(tensors=[tensor]),
    "an attribute": lambda tensor: model(constant(tensor)),
    "a branch": lambda tensor: model(branch(tensor)),
    "a sparse tensor": lambda tensor: model(sparse(tensor)),
    "a function": lambda tensor: model(functions=[function(tensor)]),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_in_another_file_is_found(place):
    inside = numpy_helper.from_array(np.zeros(1, np.float32), "w")
    assert has_external_data(PLACES[place](outside()).SerializeToString())
    assert not has_external_data(PLACES[place](inside).SerializeToString())


def test_a_text_that_reads_like_an_entry_is_no_tensor():
    named = helper.make_node("Identity", ["x"], ["y"], doc_string="\n\x08location\x12")
    assert not has_external_data(model(named).SerializeToString())


def test_the_shipped_encoder_has_its_weights_inside():
    assert not has_external_data((ROOT / "models" / "ct_vae" / "models" / "encoder.onnx").read_bytes())


def test_what_is_not_onnx_or_nested_without_end_is_an_error():
    nested = b""
    for _ in range(40):  # a graph as the attribute of a node of a graph, and so on
        for field in (0x32, 0x2A, 0x0A):
            nested = bytes([field]) + _varint(len(nested)) + nested
    for wrong in (b"\xff" * 20, b"no graph", b"\x3a\x7f", b"\x3a" + _varint(len(nested)) + nested):
        with pytest.raises(ValueError, match=r"wire type|cut off|ten bytes|deeply"):
            has_external_data(wrong)


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
