"""ONNX graphs for TensorRT with explicit precision.

TensorRT 11 takes precision only from the graph (TensorRT 10: strongly typed networks), so one file serves
10.3 to 11. The matrix products (MatMul, Gemm, Conv), which cost most and lose little, compute in fp16 or
INT8. Everything else, including LayerNorm, softmax and residual sums, stays in fp32, because fp16 there has
broken transformers (NVIDIA/TensorRT issues 2564, 4723, 4742). Inputs and outputs keep their types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jepa_export.errors import JepaExportError
from jepa_export.targets.openvino import SMALL_WEIGHTS, Sample

PRODUCTS = ("MatMul", "Gemm", "Conv")
FP16_MAX = 65504.0
# Inputs may exceed those of the calibration, and partial sums may exceed the final sum.
HEADROOM = 8
INT8_MAX = 127

Ranges = Mapping[str, float]
"""The largest magnitude of each tensor, by name."""


def calibrate(model: onnx.ModelProto, samples: Sequence[Sample]) -> dict[str, float]:
    """Return the ranges of the inputs and outputs of all matrix products.

    Args:
        model: Model in fp32.
        samples: Recorded inputs by name.

    Raises:
        JepaExportError: ONNX Runtime cannot run the model on a sample.
    """
    given = {port.name for port in model.graph.input}
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    if not products:
        return {}
    watched = {name for node in products for name in (*node.input, *node.output)} - given - {""}
    constants, aliases = _constants(model)
    watched -= constants.keys() | aliases.keys()
    probe = _copy(model)
    outputs = {port.name for port in probe.graph.output}
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in sorted(watched - outputs))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    ranges: dict[str, float] = {}
    try:
        session = onnxruntime.InferenceSession(
            probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for sample in samples:
            found = dict(zip(sorted(watched), session.run(sorted(watched), dict(sample)), strict=True))
            for name, array in (found | sample).items():
                largest = np.abs(array.astype(np.float64)).max()
                # Unlike max(), np.maximum propagates NaN.
                ranges[name] = float(np.maximum(ranges.get(name, 0.0), largest))
    # ONNX Runtime's exceptions have no common base class.
    except Exception as error:
        raise JepaExportError(
            f"ONNX Runtime cannot run the graph to calibrate it: {error}", code="target.calibration_failed"
        ) from error
    return ranges


def to_fp16(model: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    """Compute matrix products in fp16, by explicit casts.

    A product whose values come within a factor :data:`HEADROOM` of the range of fp16 stays in fp32, so that
    nothing overflows silently.

    Args:
        model: Model in fp32.
        ranges: See :func:`calibrate`.

    Raises:
        JepaExportError: A range is missing or not finite.
    """
    return _GraphRewriter(model, ranges).finish(quantize=False)


def to_int8(model: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    """Compute matrix products with weights in INT8, by explicit QuantizeLinear and DequantizeLinear.

    Quantization is symmetric, with one scale per output channel for weights and one for the other factor. In
    fp16, as in :func:`to_fp16`, stay products without weights (attention), those with fewer than
    :data:`~jepa_export.targets.openvino.SMALL_WEIGHTS`, and the product that reads the bytes of the frame,
    which symmetric INT8 would reduce to 7 bits.

    Args:
        model: Model in fp32.
        ranges: See :func:`calibrate`.

    Raises:
        JepaExportError: A range is missing or not finite.
    """
    return _GraphRewriter(model, ranges).finish(quantize=True)


class _GraphRewriter:
    """Rewrite a model node by node, inserting casts and quantization."""

    def __init__(self, model: onnx.ModelProto, ranges: Ranges) -> None:
        self._model, self._ranges = _copy(model), ranges
        self._original = model.graph.node
        self._constants, self._aliases = _constants(model)
        self._producers = {name: node for node in self._original for name in node.output}
        inputs = model.graph.input
        self._bytes = {port.name for port in inputs if port.type.tensor_type.elem_type == TensorProto.UINT8}
        self._nodes: list[onnx.NodeProto] = []
        self._made: set[str] = set()

    def finish(self, *, quantize: bool) -> onnx.ModelProto:
        graph = self._model.graph
        for original in self._original:
            node = onnx.NodeProto()
            node.CopyFrom(original)
            node.input[:] = [self._as_number(self._aliases.get(name, name)) for name in node.input]
            if quantize and self._is_worth_int8(node):
                self._quantize(node)
            elif node.op_type in PRODUCTS and self._fits_fp16(node):
                self._halve(node)
            else:
                self._nodes.append(node)
        used = {name for node in self._nodes for name in node.input} | {port.name for port in graph.output}
        del graph.node[:], graph.value_info[:]
        graph.node.extend(node for node in self._nodes if used.intersection(node.output))
        used = {name for node in graph.node for name in node.input}
        for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
            graph.initializer.remove(tensor)
        onnx.checker.check_model(self._model, full_check=True)
        return self._model

    def _as_number(self, name: str) -> str:
        """Cast bytes, because TensorRT accepts them in casts only (NVIDIA/TensorRT issue 3985)."""
        cast = f"{name}_float"
        return self._emit("Cast", [name], cast, to=TensorProto.FLOAT) if name in self._bytes else name

    def _is_worth_int8(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in PRODUCTS:
            return False
        weights = self._constants.get(node.input[1])
        return weights is not None and weights.size >= SMALL_WEIGHTS and not self._reads_bytes(node.input[0])

    def _reads_bytes(self, name: str) -> bool:
        while name in self._producers and self._producers[name].op_type in ("Cast", "Reshape", "Transpose"):
            name = self._producers[name].input[0]
        return name in self._bytes

    def _fits_fp16(self, node: onnx.NodeProto) -> bool:
        numbers = [*filter(None, node.input), *node.output]
        return max(self._range(name) for name in numbers) <= FP16_MAX / HEADROOM

    def _range(self, name: str) -> float:
        """Return the largest magnitude of a tensor, which must be finite."""
        if name in self._constants:
            found = float(np.abs(self._constants[name]).max(initial=0.0))
        elif name in self._ranges:
            found = self._ranges[name]
        else:
            raise JepaExportError(
                f"the calibration has no range of {name}: calibrate this graph", code="target.range_missing"
            )
        if not np.isfinite(found):
            raise JepaExportError(
                f"{name} is not finite ({found}): check the weights and the calibration samples",
                code="target.range_not_finite",
            )
        return found

    def _halve(self, node: onnx.NodeProto) -> None:
        (output,) = node.output
        node.input[:] = [self._half(name) if name else "" for name in node.input]
        node.output[0] = f"{output}_fp16"
        self._made.add(node.output[0])
        self._nodes.append(node)
        self._emit("Cast", node.output, output, to=TensorProto.FLOAT)

    def _half(self, name: str) -> str:
        half = f"{name}_fp16"
        if name in self._constants:
            return self._constant(half, self._constants[name].astype(np.float16))
        return self._emit("Cast", [name], half, to=TensorProto.FLOAT16)

    def _quantize(self, node: onnx.NodeProto) -> None:
        data, weights, *bias = node.input
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        last = self._constants[weights].ndim - 1
        channels = 0 if node.op_type == "Conv" or transposed else last
        node.input[:] = [self._quantized(data), self._quantized_weights(weights, channels), *bias]
        self._nodes.append(node)

    def _quantized(self, name: str) -> str:
        scale = self._constant(f"{name}_scale", _scale(np.array(self._range(name))))
        zero = self._constant("int8_zero", np.array(0, np.int8))
        stored = self._emit("QuantizeLinear", [name, scale, zero], f"{name}_int8")
        return self._emit("DequantizeLinear", [stored, scale, zero], f"{name}_dequantized")

    def _quantized_weights(self, name: str, axis: int) -> str:
        self._range(name)
        weights = self._constants[name].astype(np.float64)
        others = tuple(index for index in range(weights.ndim) if index != axis)
        scales = _scale(np.abs(weights).max(axis=others, keepdims=True))
        stored = np.rint(weights / scales).clip(-INT8_MAX, INT8_MAX).astype(np.int8)
        parts = [
            self._constant(f"{name}_int8", stored),
            self._constant(f"{name}_scale", scales.ravel()),
            self._constant(f"{name}_zero", np.zeros(scales.size, np.int8)),
        ]
        return self._emit("DequantizeLinear", parts, f"{name}_dequantized", axis=axis)

    def _emit(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node unless it exists already."""
        if output not in self._made:
            self._made.add(output)
            self._nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def _constant(self, name: str, array: NDArray[np.generic]) -> str:
        if name not in self._made:
            self._made.add(name)
            self._model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name


def _constants(model: onnx.ModelProto) -> tuple[dict[str, NDArray[np.generic]], dict[str, str]]:
    """Return constants by name, and their names by alias; torch exports repeated uses as Identity nodes."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    aliases: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Identity" and (source := aliases.get(node.input[0], node.input[0])) in found:
            aliases[node.output[0]] = source
    return found, aliases


def _scale(largest: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the size of one INT8 step, which is positive even if all values are 0."""
    scale: NDArray[np.float32] = np.maximum(largest / INT8_MAX, np.finfo(np.float32).tiny).astype(np.float32)
    return scale


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
