"""Detection of external data in ONNX files, without the onnx package.

An engine that loads a model with external data reads the file that the model names, wherever it is, and no
hash of the manifest covers that file. The search follows the field numbers of onnx.proto3
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3) from the model to each tensor, and skips unknown
fields, as protobuf does.
"""

from __future__ import annotations

from collections.abc import Iterator

_EXTERNAL = 1
_EXTERNAL_DATA_FIELD, _DATA_LOCATION_FIELD = 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 100

# Message -> field number -> message, for all fields that lead to tensors.
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}


def has_external_data(model: bytes) -> bool:
    """Return whether a tensor of the model has its data in another file.

    Raises:
        ValueError: These bytes are not an ONNX model.
    """
    if not any(field == 7 and wire == _BYTES for field, wire, _ in _fields(memoryview(model))):
        raise ValueError("has no graph")
    return _has_external_data(memoryview(model), "Model", 0)


def _has_external_data(message: memoryview, kind: str, depth: int) -> bool:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    inner = _FIELDS[kind]
    for field, wire, value in _fields(message):
        if kind == "Tensor" and (
            field == _EXTERNAL_DATA_FIELD or (field == _DATA_LOCATION_FIELD and value == _EXTERNAL)
        ):
            return True
        if wire == _BYTES and field in inner:
            assert isinstance(value, memoryview)
            if _has_external_data(value, inner[field], depth + 1):
                return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        # The protobuf library of engines uses the lower 32 bits of longer keys, and would see another field.
        if key >> 32:
            raise ValueError(f"invalid field key before byte {position}")
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield field, wire, value
            continue
        if wire == _BYTES:
            length, position = _varint(message, position)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if field == 0 or position + length > len(message):
            raise ValueError(f"truncated at byte {position}")
        yield field, wire, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError(f"truncated at byte {position}")
