"""Multiply-adds of a graph, counted from the graph as the engine gets it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import openvino as ov

from jepa_export.errors import JepaExportError
from jepa_runtime.backends.base import Graph, Shape

# Products that are not counted: nothing that this project exports has them.
_UNCOUNTED = ("Einsum", "LSTM", "GRU", "RNN", "DeformableConvolution", "If", "BinaryConvolution")


def multiply_adds(graph: Graph, shapes: Mapping[str, Shape]) -> int:
    """Multiply-adds of all matrix products and convolutions in one call, loops with all their turns.

    OpenVINO reads IR and ONNX alike (a Gemm becomes a MatMul); padding counts as if it were multiplied.

    Args:
        shapes: of every input.

    Raises:
        JepaExportError: it cannot be read, or holds an operation whose products are not counted.
    """
    try:
        model = ov.Core().read_model(graph.model, graph.weights or b"")
        model.reshape({name: list(shape) for name, shape in shapes.items()})
        return _count(model)
    except (RuntimeError, JepaExportError) as error:
        raise JepaExportError(f"{graph.name}: its multiply-adds cannot be counted: {error}") from error


def _count(model: ov.Model) -> int:
    total = 0
    for operation in model.get_ops():
        kind = operation.get_type_name()
        if kind.startswith(_UNCOUNTED):
            raise JepaExportError(f"it has the operation {kind}")
        if kind in ("TensorIterator", "Loop"):
            turns = operation.get_num_iterations()
            if turns < 0:
                raise JepaExportError("it has a loop without a fixed number of turns")
            total += turns * _count(operation.get_function())
        elif kind in _PRODUCTS:
            total += _PRODUCTS[kind](operation)
    return total


def _matmul(operation: Any) -> int:
    first, transposed = operation.input(0).get_shape(), operation.get_attributes()["transpose_a"]
    inner = first[-2] if transposed and len(first) > 1 else first[-1]
    return _size(operation.output(0)) * int(inner)


def _attention(operation: Any) -> int:
    """Scores of queries [..., L, E] with keys [..., S, E], and their products with values [..., S, V]."""
    *batch, queries, values = operation.output(0).get_shape()
    keys, width = operation.input(1).get_shape()[-2:]
    return int(math.prod(batch) * queries * keys * (width + values))


def _convolution(leading: int) -> Callable[[Any], int]:
    """Each output is as many products as a filter has weights: those after the ``leading`` axes."""
    return lambda operation: _size(operation.output(0)) * math.prod(operation.input(1).get_shape()[leading:])


def _transposed(leading: int) -> Callable[[Any], int]:
    """Each input goes into as many products."""
    return lambda operation: _size(operation.input(0)) * math.prod(operation.input(1).get_shape()[leading:])


def _size(port: Any) -> int:
    return math.prod(port.get_shape())


_PRODUCTS: dict[str, Callable[[Any], int]] = {
    "MatMul": _matmul,
    "ScaledDotProductAttention": _attention,
    "Convolution": _convolution(1),
    "GroupConvolution": _convolution(2),
    "ConvolutionBackpropData": _transposed(1),
    "GroupConvolutionBackpropData": _transposed(2),
}
