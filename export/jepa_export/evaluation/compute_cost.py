"""Compute cost: parameters, and multiply-adds of exported graphs and of torch networks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import openvino as ov

from jepa_export.errors import JepaExportError
from jepa_runtime.backends import Graph, Shape
from jepa_runtime.bundle import ROLES, Bundle, Role

if TYPE_CHECKING:
    from torch import Tensor, nn

# Operations whose products are not counted: no graph exported by this project has them.
_UNCOUNTED = ("Einsum", "LSTM", "GRU", "RNN", "DeformableConvolution", "If", "BinaryConvolution")


def parameters(*modules: nn.Module) -> int:
    """Return the total number of trainable parameters."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def multiply_adds(graph: Graph, shapes: Mapping[str, Shape]) -> int:
    """Return the multiply-adds of all matrix products and convolutions in one call, loops included.

    OpenVINO reads both IR and ONNX (a Gemm becomes a MatMul); padding counts as if it were multiplied.

    Args:
        graph: The exported graph.
        shapes: Shapes of all inputs whose shape is not fixed.

    Raises:
        JepaExportError: The graph cannot be read, or contains an operation whose products are not counted.
    """
    try:
        model = ov.Core().read_model(graph.model, graph.weights or b"")
        model.reshape({name: list(shape) for name, shape in shapes.items()})
        return _count(model)
    except (RuntimeError, JepaExportError) as error:
        raise JepaExportError(
            f"{graph.name}: multiply-adds cannot be counted: {error}", code="evaluation.uncounted"
        ) from error


def bundle_multiply_adds(bundle: Bundle) -> dict[Role, int]:
    """Return the multiply-adds of one call of each graph, in the bundle's preferred variant.

    Predictor and energy: for all futures. Relative pose: of the goal in the frame of one image.

    Raises:
        JepaExportError: See :func:`multiply_adds`.
        BundleError: The bundle changed since it was opened.
    """
    manifest, latent = bundle.manifest, bundle.manifest.io.latent
    free: dict[Role, dict[str, Shape]] = {
        "predictor": {"actions": (manifest.num_samples, manifest.horizon, manifest.action_size)},
        "energy": {"latents": (manifest.num_samples * manifest.horizon, latent.tokens, latent.dim)},
        "relative_pose": {"latents": (1, latent.tokens, latent.dim)},
    }
    found: dict[Role, int] = {}
    for role in ROLES:
        for variant in manifest.graphs.variants(role)[:1]:
            model, *weights = (bundle.read(path) for path in variant.paths)
            graph = Graph(str(bundle.path / variant.path), model, weights[0] if weights else None)
            found[role] = multiply_adds(graph, {} if variant.has_fixed_shapes else free.get(role, {}))
    return found


def format_multiply_adds(count: int) -> str:
    """Return a number of multiply-adds as text."""
    scale, unit = (1e9, "G") if count >= 1e9 else (1e6, "M")
    return f"{count / scale:.4g} {unit}"


def network_multiply_adds(module: nn.Module, *inputs: Tensor | None) -> int:
    """Return the multiply-adds of the matrix products of one torch call (also on the meta device)."""
    import torch  # Not needed to evaluate bundles.
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # Products inside fused attention are not counted on all devices.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return int(counter.get_total_flops()) // 2


def multiply_adds_per_second(module: nn.Module, *inputs: Tensor, repeats: int = 5) -> float:
    """Return the speed of a network on this machine: that of the fastest of ``repeats`` calls."""
    import torch  # Not needed to evaluate bundles.

    count, times = network_multiply_adds(module, *inputs), []
    with torch.no_grad():
        for _ in range(repeats):
            start = time.perf_counter()
            module(*inputs)
            times.append(time.perf_counter() - start)
    return count / min(times)


def _count(model: ov.Model) -> int:
    total = 0
    for operation in model.get_ops():
        kind = operation.get_type_name()
        if kind.startswith(_UNCOUNTED):
            raise JepaExportError(f"operation {kind} is not supported", code="evaluation.uncounted")
        if kind in ("TensorIterator", "Loop"):
            iterations = operation.get_num_iterations()
            if iterations < 0:
                raise JepaExportError(
                    "it has a loop without a fixed number of iterations", code="evaluation.uncounted"
                )
            total += iterations * _count(operation.get_function())
        elif kind in _PRODUCTS:
            total += _PRODUCTS[kind](operation)
    return total


def _matmul(operation: Any) -> int:
    first, transposed = operation.input(0).get_shape(), operation.get_attributes()["transpose_a"]
    inner = first[-2] if transposed and len(first) > 1 else first[-1]
    return _size(operation.output(0)) * int(inner)


def _attention(operation: Any) -> int:
    """Count products of queries [..., L, E] with keys [..., S, E], and of scores with values [..., S, V]."""
    *batch, queries, values = operation.output(0).get_shape()
    keys, width = operation.input(1).get_shape()[-2:]
    return int(math.prod(batch) * queries * keys * (width + values))


def _convolution(leading: int) -> Callable[[Any], int]:
    """Return a counter: per output, one product for each filter weight (axes after ``leading``)."""
    return lambda operation: _size(operation.output(0)) * math.prod(operation.input(1).get_shape()[leading:])


def _transposed(leading: int) -> Callable[[Any], int]:
    """Return a counter: per input, one product for each weight of a filter."""
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
