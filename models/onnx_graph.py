"""An ONNX graph as bytes: whether it keeps tensors in other files, without a package that reads ONNX.

ONNX Runtime would open whatever file such a graph names. Only fields that lead to a tensor are followed, by their
numbers in onnx.proto; the wire format is that of protobuf (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

DATA_LOCATION = 14  # field of TensorProto: an enum, 0 for inside the graph, 1 for another file

# Message → field number → the message that the field holds.
_LEADS_TO: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_DEEPEST = 64


def has_external_data(graph: bytes) -> bool:
    """Return whether any tensor of the graph has a `data_location` outside the graph.

    Raises:
        ValueError: the bytes are not ONNX, or are nested more deeply than any real graph.
    """
    return _external(memoryview(graph), "model", 0)


def _external(message: memoryview, kind: str, depth: int) -> bool:
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    leads_to = _LEADS_TO[kind]
    for number, value in _fields(message):
        if isinstance(value, int):
            if kind == "tensor" and number == DATA_LOCATION and value != 0:
                return True
        elif number in leads_to and _external(value, leads_to[number], depth + 1):
            return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield each field's number with its value: a number for a varint, bytes for a length or fixed size."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(message):
            raise ValueError("cut off")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins here, and where the next field begins."""
    value = 0
    for place in range(10):
        if at >= len(message):
            raise ValueError("cut off")
        value |= (message[at] & 0x7F) << (7 * place)
        at += 1
        if message[at - 1] < 0x80:
            return value, at
    raise ValueError("a number longer than ten bytes")
